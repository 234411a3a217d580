{{/* "true" if there are or can be several pods. */}}
{{- define "iot-consumer.several" -}}
{{- if or (.Values.autoscaling).enabled (.Values.keda).enabled (gt (int .Values.replicas) 1) -}}true{{- end -}}
{{- end }}

{{/* "true" if the pods of the StatefulSet do not serve, because others do. */}}
{{- define "iot-consumer.serveOnly" -}}
{{- if (.Values.serve).only -}}true{{- end -}}
{{- end }}

{{/* Fails for settings with which pods that serve would show nothing, or not all the same. */}}
{{- define "iot-consumer.checkServe" -}}
{{- $serve := .Values.serve | default dict -}}
{{- $follow := include "iot-lib.textSetting" (dict "config" .Values.config "path" "follow" "default" "all") -}}
{{- if and $serve.only (not $serve.enabled) -}}
{{- fail "serve.only: needs serve.enabled: nothing would serve the page" -}}
{{- end -}}
{{- if and $serve.topics (not $serve.only) -}}
{{- fail "serve.topics: needs serve.only: the pods of the StatefulSet show all topics" -}}
{{- end -}}
{{- if and $serve.enabled (eq $follow "none") -}}
{{- fail "config.follow: none: pods that only serve show only what they follow" -}}
{{- end -}}
{{- if and $serve.only (eq $follow "topics") -}}
{{- fail "config.follow: topics: the pods of the StatefulSet follow nothing with serve.only: use serve.topics" -}}
{{- end -}}
{{- range concat (.Values.extraEnv | default list) ($serve.extraEnv | default list) -}}
{{- if and . (eq (toString .name) "IOT_ROLE") -}}
{{- fail "extraEnv.IOT_ROLE: is the chart's: serve.enabled and serve.only set it" -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/*
How clients prove who they are (auth.mode), as text: of a variable if there is one, because those
override the file; "elsewhere" if its value is not in the values; "none" if nothing is said.
*/}}
{{- define "iot-consumer.authMode" -}}
{{- $auth := dict -}}
{{- range $key, $value := .Values.config -}}
{{- if and (eq $key "auth") (not (kindIs "invalid" $value)) -}}{{- $auth = $value -}}{{- end -}}
{{- end -}}
{{- if not (kindIs "map" $auth) -}}{{- $auth = dict "mode" $auth -}}{{- end -}}
{{- $mode := "none" -}}
{{- range $key, $value := $auth -}}
{{- if and (eq $key "mode") (not (kindIs "invalid" $value)) -}}{{- $mode = toString $value -}}{{- end -}}
{{- end -}}
{{- if .Values.extraEnvFrom -}}{{- if has $mode (list "" "none") -}}{{- $mode = "elsewhere" -}}{{- end -}}{{- end -}}
{{- range concat (.Values.extraEnv | default list) ((.Values.serve | default dict).extraEnv | default list) -}}
{{- if and . (has (toString .name) (list "IOT_AUTH" "IOT_AUTH__MODE")) -}}
{{- $mode = ternary "elsewhere" (toString (get . "value")) (hasKey . "valueFrom") -}}
{{- end -}}
{{- end -}}
{{- $mode -}}
{{- end }}

{{/* Fails if clients would not be authenticated, and an Ingress leads to them. */}}
{{- define "iot-consumer.checkAuth" -}}
{{- $mode := include "iot-consumer.authMode" . -}}
{{- if not $mode -}}
{{- fail "config.auth.mode: must be jwt, tokens_file, proxy or none: pods do not listen on loopback only" -}}
{{- end -}}
{{- if and (.Values.ingress).enabled (eq $mode "none") -}}
{{- fail "config.auth.mode: none: with ingress.enabled anyone who reaches the Ingress would see and change everything; set jwt, tokens_file or proxy" -}}
{{- end -}}
{{- end }}

{{/* Label of the pods that serve, in addition to those of their selectors. */}}
{{- define "iot-consumer.httpLabel" -}}
iot-stream/http: {{ include "iot-lib.name" . | quote }}
{{- end }}

{{/* Variable with the address for page, API and WebSocket, as JSON. */}}
{{- define "iot-consumer.httpListen" -}}
{{- dict "name" "IOT_HTTP__LISTEN" "value" (printf "%s:8080" (.Values.listen | default "0.0.0.0")) | toJson -}}
{{- end }}

{{/* Settings that the chart reads or sets, each with its other names (docs/consumer.md). */}}
{{- define "iot-consumer.names" -}}
{{- dict
  "kafka.brokers" (list "kafka.consumer.brokers")
  "kafka.group" (list "kafka.group_id" "kafka.consumer.group_id")
  "kafka.group_instance_id" (list "kafka.consumer.group_instance_id")
  "kafka.from" (list "kafka.consumer.auto_offset_reset" "kafka.consumer.initial_offset")
  "kafka.session_timeout" (list "kafka.consumer.session_timeout")
  "store.url" (list "cache.redis.endpoints")
  | toJson -}}
{{- end }}

{{/* The settings, as JSON, for what the chart reads of them. */}}
{{- define "iot-consumer.read" -}}
{{- $names := include "iot-consumer.names" . | fromJson -}}
{{- include "iot-lib.read" (dict "config" .Values.config "names" $names) -}}
{{- end }}

{{/* Variables that have the brokers of Kafka, as JSON. */}}
{{- define "iot-consumer.brokerVariables" -}}
{{- list "KAFKA_BROKERS" "IOT_KAFKA__BROKERS" "IOT_KAFKA__CONSUMER__BROKERS" | toJson -}}
{{- end }}

{{/* The addresses of the store, as a JSON list; empty if state is in memory. */}}
{{- define "iot-consumer.store" -}}
{{- $config := include "iot-consumer.read" . | fromJson -}}
{{- $found := include "iot-lib.connections" (dict "root" . "given" (dig "store" "url" (list) $config)
    "variables" (list "REDIS_URL" "REDIS_ENDPOINT" "IOT_STORE__URL" "IOT_CACHE__REDIS__ENDPOINTS")) | fromJsonArray -}}
{{- $addresses := list -}}
{{- range $found -}}
{{- if not (hasPrefix "memory:" .) -}}{{- $addresses = append $addresses . -}}{{- end -}}
{{- end -}}
{{- toJson $addresses -}}
{{- end }}

{{/* "true" if the store's address may be in a variable whose value is elsewhere. */}}
{{- define "iot-consumer.storeElsewhere" -}}
{{- if .Values.extraEnvFrom -}}true{{- end -}}
{{- range .Values.extraEnv -}}
{{- if and . .valueFrom (has .name (list "REDIS_URL" "REDIS_ENDPOINT" "IOT_STORE__URL" "IOT_CACHE__REDIS__ENDPOINTS")) -}}true{{- end -}}
{{- end -}}
{{- end }}

{{- define "iot-consumer.config" -}}
{{- $config := deepCopy (.Values.config | default dict) -}}
{{- include "iot-lib.refuse" (dict "config" $config "refused" (dict
  "ops" "is the chart's: 9090 on every address (listen)"
  "http" "is the chart's: 8080 on every address (listen)"
  "role" "is the chart's: serve.enabled and serve.only set it"
  "monitoring.prometheus.port" "is the chart's: 9090"
  "kafka.security.password" "would be in a ConfigMap: use files, kafka.security.password_file"
  "store.password" "would be in a ConfigMap: use files, store.password_file"
  "cache.redis.password" "would be in a ConfigMap: use files, store.password_file"
  "auth.jwt.secret" "would be in a ConfigMap: use files, auth.jwt.secret_file"
  "webhook.bearer_token" "would be in a ConfigMap: use files, webhook.bearer_token_file"
  "webhook.url" "is a secret and would be in a ConfigMap: use extraEnv, IOT_WEBHOOK__URL from a Secret"
)) -}}
{{- include "iot-consumer.checkServe" . -}}
{{- include "iot-consumer.checkAuth" . -}}
{{- $auth := get $config "auth" | default dict -}}
{{- if kindIs "map" $auth -}}
{{- if kindIs "invalid" (index $auth "mode") -}}
{{- $_ := set $config "auth" (set $auth "mode" "none") -}}
{{- end -}}
{{- end -}}
{{- $read := include "iot-consumer.read" . | fromJson -}}
{{- if contains "@" (include "iot-lib.setting" (dict "config" $read "path" "store.url")) -}}
{{- fail "config.store.url: its login would be in a ConfigMap: use store.username, and files, store.password_file" -}}
{{- end -}}
{{- $stored := or (gt (len (include "iot-consumer.store" . | fromJsonArray)) 0) (ne (include "iot-consumer.storeElsewhere" .) "") -}}
{{- if and (include "iot-consumer.several" .) (not $stored) -}}
{{- fail "config.store.url: several pods need a Redis: a partition that moves would be read again from its beginning" -}}
{{- end -}}
{{- include "iot-lib.giveWay" (dict "config" $config "names" (include "iot-consumer.names" . | fromJson)
    "defaults" (dict "store.url" "redis://redis.iot-consumer:6379" "kafka.session_timeout" "30s"
      "kafka.brokers" (list "iot-kafka-bootstrap.kafka:9092"))) -}}
{{- $kafka := get $config "kafka" | default dict -}}
{{- range list $kafka (get $kafka "consumer" | default dict) -}}
{{- $_ := unset . "group_instance_id" -}}
{{- end -}}
{{- include "iot-lib.config" (dict "root" . "config" $config) -}}
{{- end }}
