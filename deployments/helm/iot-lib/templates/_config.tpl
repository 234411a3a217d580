{{/*
The value of a setting as JSON, or nothing if it is not set.
Takes config (the settings) and path (such as kafka.brokers).
*/}}
{{- define "iot-lib.setting" -}}
{{- $at := .config -}}
{{- range splitList "." .path -}}
{{- $at = and (kindIs "map" $at) (get $at .) -}}
{{- end -}}
{{- if $at -}}{{ toJson $at }}{{- end -}}
{{- end }}

{{/* The same as text. Takes config, path and default. */}}
{{- define "iot-lib.textSetting" -}}
{{- $json := include "iot-lib.setting" . -}}
{{- if $json -}}
{{- include "iot-lib.text" (dict "value" (fromJson (printf "{\"value\": %s}" $json)).value "path" (printf "config.%s" .path)) -}}
{{- else -}}
{{- .default -}}
{{- end -}}
{{- end }}

{{/*
Fails the rendering if the values contain a setting that does not belong there.
Takes config and refused (paths, each with the reason).
*/}}
{{- define "iot-lib.refuse" -}}
{{- $config := .config -}}
{{- range $path, $reason := .refused -}}
{{- if include "iot-lib.setting" (dict "config" $config "path" $path) -}}
{{- fail (printf "config.%s: %s" $path $reason) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/*
The settings with other names replaced by the services' first ones, as JSON: for what the
chart itself reads of them. Takes config and names (paths, each with its other names).
*/}}
{{- define "iot-lib.read" -}}
{{- $config := deepCopy (.config | default dict) -}}
{{- include "iot-lib.clean" (dict "value" $config "path" "config") -}}
{{- $read := deepCopy $config -}}
{{- range $path, $others := .names -}}
{{- range $others -}}
{{- $json := include "iot-lib.setting" (dict "config" $config "path" .) -}}
{{- if $json -}}
{{- $value := (fromJson (printf "{\"value\": %s}" $json)).value -}}
{{- include "iot-lib.put" (dict "config" $read "path" $path "value" $value) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $read -}}
{{- end }}

{{/* Sets a setting. Changes config. Takes config, path and value. */}}
{{- define "iot-lib.put" -}}
{{- $section := .config -}}
{{- $keys := splitList "." .path -}}
{{- range initial $keys -}}
{{- if not (get $section .) -}}{{- $_ := set $section . dict -}}{{- end -}}
{{- $section = get $section . -}}
{{- end -}}
{{- $_ := set $section (last $keys) .value -}}
{{- end }}

{{/*
Removes the chart's own defaults of settings that are given under another name, because a
service refuses a setting with two values. Changes config. Takes config, names (paths, each
with its other names) and defaults (paths, each with the chart's default).
*/}}
{{- define "iot-lib.giveWay" -}}
{{- $config := .config -}}
{{- $names := .names -}}
{{- range $path, $default := .defaults -}}
{{- range get $names $path | default list -}}
{{- if include "iot-lib.setting" (dict "config" $config "path" .) -}}
{{- if eq (include "iot-lib.setting" (dict "config" $config "path" $path)) (toJson $default) -}}
{{- $keys := splitList "." $path -}}
{{- $_ := unset (get $config (first $keys)) (last $keys) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/*
The service's configuration file: config, and the paths of the files in `files`.
Takes root and config.
*/}}
{{- define "iot-lib.config" -}}
{{- $config := deepCopy .config -}}
{{- include "iot-lib.clean" (dict "value" $config "path" "config") -}}
{{- range $path, $from := .root.Values.files -}}
{{- if $from -}}
{{- if include "iot-lib.setting" (dict "config" $config "path" $path) -}}
{{- fail (printf "config.%s: is set in files too; remove one of them" $path) -}}
{{- end -}}
{{- include "iot-lib.put" (dict "config" $config "path" $path "value" (printf "/etc/iot/files/%s" $path)) -}}
{{- end -}}
{{- end -}}
{{- toYaml $config -}}
{{- end }}

{{/* Takes root and config (text). */}}
{{- define "iot-lib.configMap" -}}
apiVersion: v1
kind: ConfigMap
metadata:
  {{- include "iot-lib.metadata" (dict "root" .root) | nindent 2 }}
data:
  config.yaml: |
    {{- .config | nindent 4 }}
{{- end }}
