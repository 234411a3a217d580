{{/* "true" if there are or can be several pods. */}}
{{- define "iot-bridge.several" -}}
{{- if or (.Values.autoscaling).enabled (gt (int .Values.replicas) 1) -}}true{{- end -}}
{{- end }}

{{- define "iot-bridge.config" -}}
{{- $config := deepCopy (.Values.config | default dict) -}}
{{- include "iot-lib.refuse" (dict "config" $config "refused" (dict
  "ops" "is the chart's: 9090 on every address (listen)"
  "mqtt.password" "would be in a ConfigMap: use files, mqtt.password_file"
  "kafka.security.password" "would be in a ConfigMap: use files, kafka.security.password_file"
)) -}}
{{- if include "iot-bridge.several" . -}}
{{- if ne (get $config "shutdown" | default "drain") "drain" -}}
{{- fail "config.shutdown: must be drain with several pods: one that is scaled away would leave a session that nobody empties" -}}
{{- end -}}
{{- $_ := set $config "shutdown" "drain" -}}
{{- if not (include "iot-lib.setting" (dict "config" $config "path" "mqtt.share_group")) -}}
{{- include "iot-lib.put" (dict "config" $config "path" "mqtt.share_group" "value" (include "iot-lib.fullname" .)) -}}
{{- end -}}
{{- end -}}
{{- $_ := unset (get $config "mqtt" | default dict) "client_id" -}}
{{- include "iot-lib.config" (dict "root" . "config" $config) -}}
{{- end }}
