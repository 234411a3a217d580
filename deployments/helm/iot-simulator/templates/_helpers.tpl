{{/* Settings that the chart reads or sets, each with its other names (docs/simulator.md). */}}
{{- define "iot-simulator.names" -}}
{{- dict
  "kafka.brokers" (list "brokers" "producer.brokers" "kafka.producer.brokers")
  "fleet.devices" (list "device_count" "simulator.device_count" "device.device_count")
  "fleet.interval" (list "sample_interval" "simulator.sample_interval" "device.sample_interval")
  | toJson -}}
{{- end }}

{{/* The settings, as JSON, for what the chart reads of them. */}}
{{- define "iot-simulator.read" -}}
{{- $names := include "iot-simulator.names" . | fromJson -}}
{{- include "iot-lib.read" (dict "config" .Values.config "names" $names) -}}
{{- end }}

{{- define "iot-simulator.config" -}}
{{- $config := deepCopy (.Values.config | default dict) -}}
{{- include "iot-lib.refuse" (dict "config" $config "refused" (dict
  "ops" "is the chart's: 9090 on every address (listen)"
  "http" "is the chart's: 8080 on loopback, for kubectl port-forward"
  "fleet.shard" "is the chart's: each pod plays the share that its number says (replicas)"
  "mqtt.password" "would be in a ConfigMap: use files, mqtt.password_file"
  "kafka.security.password" "would be in a ConfigMap: use files, kafka.security.password_file"
)) -}}
{{- if and (hasKey $config "sink") (kindIs "invalid" $config.sink) -}}
{{- fail "config.sink: null must be quoted (\"null\") to discard messages; omit it for the default" -}}
{{- end -}}
{{- include "iot-lib.giveWay" (dict "config" $config "names" (include "iot-simulator.names" . | fromJson)
    "defaults" (dict "kafka.brokers" (list "iot-kafka-bootstrap.kafka:9092") "fleet.devices" 100 "fleet.interval" "5s")) -}}
{{- include "iot-lib.config" (dict "root" . "config" $config) -}}
{{- end }}

{{/* StatefulSet, unless the values say Job. */}}
{{- define "iot-simulator.kind" -}}
{{- .Values.kind | default "StatefulSet" -}}
{{- end }}

{{/* "true" if the run has an end, by its settings or by variables. */}}
{{- define "iot-simulator.ends" -}}
{{- $config := include "iot-simulator.read" . | fromJson -}}
{{- range $path := list "run.messages" "run.duration" -}}
{{- $variable := printf "IOT_%s" (upper $path | replace "." "__") -}}
{{- $given := include "iot-lib.textSetting" (dict "config" $config "path" $path "default" "0") -}}
{{- range $.Values.extraEnv -}}
{{- if . -}}
{{- if eq (toString .name) $variable -}}
{{- /* A value from elsewhere is taken for an end; 0 is one that is given. */}}
{{- $given = kindIs "invalid" .value | ternary 1 .value | toString -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- /* Zero is no end, in whatever unit. */}}
{{- if not (regexMatch "^ *0*(\\.0+)? *[a-z]*$" $given) -}}true{{- end -}}
{{- end -}}
{{- end }}

{{/* Takes root, index (label that has the pod's number) and restart (policy). */}}
{{- define "iot-simulator.pod" -}}
{{- $env := list
  (dict "name" "IOT_FLEET__SHARD" "value" (printf "$(POD_INDEX)/%d" (int .root.Values.replicas | max 1)))
  (dict "name" "IOT_HTTP__LISTEN" "value" "127.0.0.1:8080") -}}
{{- include "iot-lib.podTemplate" (merge (dict "config" (include "iot-simulator.config" .root) "env" $env "http" false) .) -}}
{{- end }}

{{- define "iot-simulator.jobSpec" -}}
{{- $replicas := kindIs "invalid" .Values.replicas | ternary 1 .Values.replicas | int64 -}}
completionMode: Indexed
completions: {{ $replicas }}
parallelism: {{ $replicas }}
# A failed run is not retried.
backoffLimit: 0
template:
  {{- include "iot-simulator.pod" (dict "root" . "restart" "Never"
      "index" "batch.kubernetes.io/job-completion-index") | nindent 2 }}
{{- end }}

{{/*
A Job cannot be changed, so each content has its own name, and so has each configuration, which
the pod template need not depend on (restartOnChange). It does not depend on the release's
revision, which is always 1 where only `helm template` runs, as in Argo CD. The names of its
pods append the pod's number, and are limited to 63 characters.
*/}}
{{- define "iot-simulator.jobName" -}}
{{- $name := include "iot-lib.fullname" . | trunc 45 | trimSuffix "-" -}}
{{- $content := printf "%s\n%s" (include "iot-simulator.jobSpec" .) (include "iot-simulator.config" .) -}}
{{- printf "%s-%s" $name (sha256sum $content | trunc 8) -}}
{{- end }}
