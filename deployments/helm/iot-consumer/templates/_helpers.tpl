{{/* "true" if there are or can be several pods. */}}
{{- define "iot-consumer.several" -}}
{{- if or .Values.autoscaling.enabled .Values.keda.enabled (gt (int .Values.replicas) 1) -}}true{{- end -}}
{{- end }}

{{- define "iot-consumer.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- include "iot-lib.refuse" (dict "config" $config "refused" (dict
  "ops" "is the chart's: 9090 on every address (listen)"
  "http" "is the chart's: 8080 on every address (listen)"
  "monitoring.prometheus.port" "is the chart's: 9090"
  "kafka.security.password" "would be in a ConfigMap: use files, kafka.security.password_file"
  "store.password" "would be in a ConfigMap: use files, store.password_file"
  "cache.redis.password" "would be in a ConfigMap: use files, store.password_file"
  "webhook.bearer_token" "would be in a ConfigMap: use files, webhook.bearer_token_file"
  "webhook.url" "is a secret and would be in a ConfigMap: use extraEnv, IOT_WEBHOOK__URL from a Secret"
)) -}}
{{- $store := dig "store" "url" "memory://" $config -}}
{{- if regexMatch "@" $store -}}
{{- fail "config.store.url: its login would be in a ConfigMap: use store.username, and files, store.password_file" -}}
{{- end -}}
{{- $elsewhere := .Values.extraEnvFrom -}}
{{- range .Values.extraEnv -}}
{{- if has .name (list "REDIS_URL" "REDIS_ENDPOINT" "IOT_STORE__URL") -}}{{- $elsewhere = true -}}{{- end -}}
{{- end -}}
{{- if and (include "iot-consumer.several" .) (hasPrefix "memory:" $store) (not $elsewhere) -}}
{{- fail "config.store.url: several pods need a Redis: a partition that moves would be read again from its beginning" -}}
{{- end -}}
{{- $_ := unset (get $config "kafka" | default dict) "group_instance_id" -}}
{{- include "iot-lib.config" (dict "root" . "config" $config) -}}
{{- end }}
