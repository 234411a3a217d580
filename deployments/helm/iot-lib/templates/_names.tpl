{{/* Name of the service, such as iot-bridge. As a dependency with an alias, a chart has the alias as its name. */}}
{{- define "iot-lib.service" -}}
{{- index (.Chart.Annotations | default dict) "iot-stream/service" | default .Chart.Name -}}
{{- end }}

{{- define "iot-lib.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end }}

{{/*
Name of the objects of a release. At most 52 characters, because a StatefulSet puts its name
and 11 more characters into a label, which is limited to 63. An alias may have characters that
names of objects may not.
*/}}
{{- define "iot-lib.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $fullname := printf "%s-%s" .Release.Name $name -}}
{{- if .Values.fullnameOverride -}}
{{- $fullname = .Values.fullnameOverride -}}
{{- else if contains $name .Release.Name -}}
{{- $fullname = .Release.Name -}}
{{- end -}}
{{- $fullname | lower | replace "_" "-" | trunc 52 | trimSuffix "-" -}}
{{- end }}

{{/* Labels of the chart's first pods, which select them. */}}
{{- define "iot-lib.selectorLabels" -}}
{{- include "iot-lib.podSelector" (dict "root" .) -}}
{{- end }}

{{/*
Labels that select pods. Takes root and suffix (none for the chart's first pods). The suffix is
in the name, so that neither of two selectors matches the other's pods. Names are quoted, because
the names of a release and of a namespace may read as numbers or booleans.
*/}}
{{- define "iot-lib.podSelector" -}}
{{- $suffix := .suffix | default "" -}}
{{- $name := include "iot-lib.name" .root | trunc (int (sub 63 (len $suffix))) | trimSuffix "-" -}}
app.kubernetes.io/name: {{ printf "%s%s" $name $suffix | quote }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
{{- end }}

{{/* A version as a label or a tag, which may not contain a plus sign. Takes text. */}}
{{- define "iot-lib.version" -}}
{{- . | replace "+" "_" | trunc 63 | trimAll "-_." -}}
{{- end }}

{{/*
Labels of an object as JSON. Takes root, labels (from the values, which replace the chart's
own), path (of these values) and component (none by default).
*/}}
{{- define "iot-lib.labels" -}}
{{- $root := .root -}}
{{- $labels := dict
  "app.kubernetes.io/name" (include "iot-lib.name" $root)
  "app.kubernetes.io/instance" $root.Release.Name
  "app.kubernetes.io/version" (include "iot-lib.version" $root.Chart.AppVersion)
  "app.kubernetes.io/part-of" "iot-stream"
  "app.kubernetes.io/managed-by" $root.Release.Service
  "helm.sh/chart" (include "iot-lib.version" (printf "%s-%s" $root.Chart.Name $root.Chart.Version)) -}}
{{- with .component -}}{{- $_ := set $labels "app.kubernetes.io/component" . -}}{{- end -}}
{{- $given := include "iot-lib.texts" (dict "values" .labels "path" .path) | fromJson -}}
{{- mergeOverwrite $labels $given | toJson -}}
{{- end }}

{{/*
Takes root, suffix (of the name), namespace (default: the release's), component, labels and
annotations (from the values), and path (of the values, for messages).
*/}}
{{- define "iot-lib.metadata" -}}
{{- $path := .path | default "metadata" -}}
{{- $labels := dict "root" .root "component" .component "labels" .labels "path" (printf "%s.labels" $path) -}}
{{- $metadata := dict
  "name" (printf "%s%s" (include "iot-lib.fullname" .root) (.suffix | default ""))
  "namespace" (.namespace | default .root.Release.Namespace)
  "labels" (include "iot-lib.labels" $labels | fromJson) -}}
{{- with include "iot-lib.texts" (dict "values" .annotations "path" (printf "%s.annotations" $path)) | fromJson -}}
{{- $_ := set $metadata "annotations" . -}}
{{- end -}}
{{- toYaml $metadata -}}
{{- end }}

{{- define "iot-lib.serviceAccountName" -}}
{{- $account := .Values.serviceAccount | default dict -}}
{{- $account.name | default (ternary (include "iot-lib.fullname" .) "default" ($account.create | default false)) -}}
{{- end }}

{{- define "iot-lib.image" -}}
{{- $image := .Values.image | default dict -}}
{{- $repository := $image.repository | default (printf "ghcr.io/iot-stream/%s" (include "iot-lib.service" .)) -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository ($image.tag | default (include "iot-lib.version" .Chart.AppVersion)) -}}
{{- end -}}
{{- end }}

{{/* Name of the service that has the ops port of each pod. Takes root and suffix (of the pods). */}}
{{- define "iot-lib.opsService" -}}
{{ include "iot-lib.fullname" .root }}{{ .suffix | default "" }}-ops
{{- end }}
