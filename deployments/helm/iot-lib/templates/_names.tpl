{{/*
Name of the objects of a release. At most 52 characters, because a StatefulSet puts its name
and 11 more characters into a label, which is limited to 63.
*/}}
{{- define "iot-lib.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "iot-lib.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "iot-lib.labels" -}}
{{ include "iot-lib.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: iot-stream
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "iot-lib.metadata" -}}
name: {{ include "iot-lib.fullname" . }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "iot-lib.labels" . | nindent 2 }}
{{- end }}

{{- define "iot-lib.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "iot-lib.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{- define "iot-lib.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Name of the service that has the ops port of every pod. */}}
{{- define "iot-lib.opsService" -}}
{{ include "iot-lib.fullname" . }}-ops
{{- end }}
