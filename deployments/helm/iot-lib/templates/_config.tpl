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
The service's configuration file: config, and the paths of the files in `files`.
Takes root and config.
*/}}
{{- define "iot-lib.config" -}}
{{- $config := deepCopy .config -}}
{{- range $path, $from := .root.Values.files -}}
{{- $section := $config -}}
{{- $keys := splitList "." $path -}}
{{- range initial $keys -}}
{{- if not (get $section .) -}}{{- $_ := set $section . dict -}}{{- end -}}
{{- $section = get $section . -}}
{{- end -}}
{{- if get $section (last $keys) -}}
{{- fail (printf "config.%s: is in files too: leave one out" $path) -}}
{{- end -}}
{{- $_ := set $section (last $keys) (printf "/etc/iot/files/%s" $path) -}}
{{- end -}}
{{- toYaml $config -}}
{{- end }}

{{/* Takes root and config (text). */}}
{{- define "iot-lib.configMap" -}}
apiVersion: v1
kind: ConfigMap
metadata:
  {{- include "iot-lib.metadata" .root | nindent 2 }}
data:
  config.yaml: |
    {{- .config | nindent 4 }}
{{- end }}
