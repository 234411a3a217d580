{{- define "iot-simulator.config" -}}
{{- include "iot-lib.refuse" (dict "config" .Values.config "refused" (dict
  "ops" "is the chart's: 9090 on every address (listen)"
  "http" "is the chart's: 8080 on loopback, for kubectl port-forward"
  "fleet.shard" "is the chart's: each pod plays the share that its number says (replicas)"
  "mqtt.password" "would be in a ConfigMap: use extraEnv, IOT_MQTT__PASSWORD from a Secret"
  "kafka.security.password" "would be in a ConfigMap: use files, kafka.security.password_file"
)) -}}
{{- include "iot-lib.config" (dict "root" . "config" .Values.config) -}}
{{- end }}

{{/* "true" if the run has an end. */}}
{{- define "iot-simulator.ends" -}}
{{- $messages := include "iot-lib.setting" (dict "config" .Values.config "path" "run.messages") -}}
{{- $duration := include "iot-lib.setting" (dict "config" .Values.config "path" "run.duration") -}}
{{- if or $messages (not (has $duration (list "" "\"0s\""))) -}}true{{- end -}}
{{- end }}

{{/* Takes root, index (label that has the pod's number) and restart (policy). */}}
{{- define "iot-simulator.pod" -}}
{{- $env := list
  (dict "name" "IOT_FLEET__SHARD" "value" (printf "$(POD_INDEX)/%d" (int .root.Values.replicas | max 1)))
  (dict "name" "IOT_HTTP__LISTEN" "value" "127.0.0.1:8080") -}}
{{- include "iot-lib.podTemplate" (merge (dict "config" (include "iot-simulator.config" .root) "env" $env "http" false) .) -}}
{{- end }}
