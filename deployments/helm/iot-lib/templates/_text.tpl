{{/*
A value that must be text. In a values file a number may be meant as text, and helm has
already parsed it: whole numbers are written in digits, and numbers that may have been
written in another way are refused. Takes value and path (for messages).
*/}}
{{- define "iot-lib.text" -}}
{{- if kindIs "float64" .value -}}
{{- include "iot-lib.exact" . -}}
{{- if ne .value (floor .value) -}}
{{- fail (printf "%s: %v must be text: quote it" .path .value) -}}
{{- end -}}
{{- printf "%.0f" .value -}}
{{- else if or (kindIs "map" .value) (kindIs "slice" .value) -}}
{{- fail (printf "%s: must be text" .path) -}}
{{- else if not (kindIs "invalid" .value) -}}
{{- toString .value -}}
{{- end -}}
{{- end }}

{{/* Fails for a number too large for helm to keep exactly. Takes value and path. */}}
{{- define "iot-lib.exact" -}}
{{- if kindIs "float64" .value -}}
{{- if or (ge .value 9007199254740992.0) (le .value -9007199254740992.0) -}}
{{- fail (printf "%s: helm cannot keep the digits of a number of 2^53 or more: quote it" .path) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Labels, annotations and other maps of text, as JSON. Takes values and path. */}}
{{- define "iot-lib.texts" -}}
{{- $path := .path -}}
{{- $texts := dict -}}
{{- range $key, $value := .values -}}
{{- if not (kindIs "invalid" $value) -}}
{{- $_ := set $texts $key (include "iot-lib.text" (dict "value" $value "path" (printf "%s.%s" $path $key))) -}}
{{- end -}}
{{- end -}}
{{- toJson $texts -}}
{{- end }}

{{/* A number or a percentage, such as 1 or 25%. Takes value and path. */}}
{{- define "iot-lib.numberOrPercentage" -}}
{{- $text := include "iot-lib.text" . -}}
{{- regexMatch "^[0-9]+$" $text | ternary $text (quote $text) -}}
{{- end }}

{{/*
Removes what is null from settings, and refuses numbers that helm has rounded. Changes value.
Takes value and path.
*/}}
{{- define "iot-lib.clean" -}}
{{- $value := .value -}}
{{- $path := .path -}}
{{- if kindIs "map" $value -}}
{{- range $key := keys $value | sortAlpha -}}
{{- $below := get $value $key -}}
{{- if kindIs "invalid" $below -}}
{{- $_ := unset $value $key -}}
{{- else -}}
{{- include "iot-lib.clean" (dict "value" $below "path" (printf "%s.%s" $path $key)) -}}
{{- end -}}
{{- end -}}
{{- else if kindIs "slice" $value -}}
{{- range $index, $below := $value -}}
{{- include "iot-lib.clean" (dict "value" $below "path" (printf "%s.%d" $path $index)) -}}
{{- end -}}
{{- else -}}
{{- include "iot-lib.exact" . -}}
{{- end -}}
{{- end }}
