{{- define "iot-lib.serviceMonitor" -}}
{{- with (.Values.metrics).serviceMonitor }}
{{- if .enabled -}}
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata:
  {{- include "iot-lib.metadata" (dict "root" $ "labels" .labels "path" "metrics.serviceMonitor") | nindent 2 }}
spec:
  selector:
    matchLabels:
      {{- include "iot-lib.selectorLabels" $ | nindent 6 }}
      app.kubernetes.io/component: ops
  endpoints:
    - port: ops
      path: /metrics
      {{- with .interval }}
      interval: {{ quote . }}
      {{- end }}
      relabelings:
        # Rules and dashboards select by this label, so it does not depend on the release's name or
        # alias.
        - {targetLabel: job, replacement: {{ include "iot-lib.service" $ | quote }}}
{{- end }}
{{- end }}
{{- end }}

{{/* The rules are the files that promtool tests: deployments/prometheus/rules. */}}
{{- define "iot-lib.prometheusRule" -}}
{{- with (.Values.metrics).prometheusRule -}}
{{- if .enabled -}}
{{- $rules := . -}}
{{- range $path, $_ := $.Files.Glob "files/rules/*.yml" }}
---
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  {{- include "iot-lib.metadata" (dict "root" $ "suffix" (base $path | trimSuffix ".yml" | printf "-%s")
      "labels" $rules.labels "path" "metrics.prometheusRule") | nindent 2 }}
spec:
  {{- $.Files.Get $path | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* One ConfigMap each, because together they could exceed the size limit. */}}
{{- define "iot-lib.dashboards" -}}
{{- with (.Values.metrics).dashboards -}}
{{- if .enabled -}}
{{- $dashboards := . -}}
{{- range $path, $_ := $.Files.Glob "files/dashboards/*.json" }}
{{- $file := base $path }}
---
apiVersion: v1
kind: ConfigMap
metadata:
  {{- include "iot-lib.metadata" (dict "root" $ "suffix" (trimSuffix ".json" $file | printf "-dashboard-%s")
      "namespace" $dashboards.namespace "labels" $dashboards.labels "annotations" $dashboards.annotations
      "path" "metrics.dashboards") | nindent 2 }}
data:
  {{ $file }}: |
    {{- $.Files.Get $path | nindent 4 }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
