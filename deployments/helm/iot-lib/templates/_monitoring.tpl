{{- define "iot-lib.serviceMonitor" -}}
{{- with .Values.metrics.serviceMonitor }}
{{- if .enabled -}}
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata:
  {{- include "iot-lib.metadata" $ | nindent 2 }}
    {{- with .labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  selector:
    matchLabels:
      {{- include "iot-lib.selectorLabels" $ | nindent 6 }}
      app.kubernetes.io/component: ops
  endpoints:
    - port: ops
      path: /metrics
      interval: {{ .interval }}
      relabelings:
        # The rules and dashboards go by it, whatever the release is called.
        - {targetLabel: job, replacement: {{ $.Chart.Name }}}
{{- end }}
{{- end }}
{{- end }}

{{/* The rules are the files that promtool tests: deployments/prometheus/rules. */}}
{{- define "iot-lib.prometheusRule" -}}
{{- $rules := .Values.metrics.prometheusRule -}}
{{- if $rules.enabled -}}
{{- range $path, $_ := .Files.Glob "files/rules/*.yml" }}
---
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: {{ include "iot-lib.fullname" $ }}-{{ base $path | trimSuffix ".yml" }}
  namespace: {{ $.Release.Namespace }}
  labels:
    {{- include "iot-lib.labels" $ | nindent 4 }}
    {{- with $rules.labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  {{- $.Files.Get $path | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{/* One ConfigMap each, because together they could exceed the size limit. */}}
{{- define "iot-lib.dashboards" -}}
{{- $dashboards := .Values.metrics.dashboards -}}
{{- if $dashboards.enabled -}}
{{- range $path, $_ := .Files.Glob "files/dashboards/*.json" }}
{{- $file := base $path }}
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ include "iot-lib.fullname" $ }}-dashboard-{{ trimSuffix ".json" $file }}
  namespace: {{ $dashboards.namespace | default $.Release.Namespace }}
  labels:
    {{- include "iot-lib.labels" $ | nindent 4 }}
    {{- toYaml $dashboards.labels | nindent 4 }}
  {{- with $dashboards.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
data:
  {{ $file }}: |
    {{- $.Files.Get $path | nindent 4 }}
{{- end }}
{{- end }}
{{- end }}
