{{- define "iot-lib.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "iot-lib.serviceAccountName" . }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "iot-lib.labels" . | nindent 4 }}
  {{- with .Values.serviceAccount.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
# The services never talk to the Kubernetes API.
automountServiceAccountToken: false
{{- end }}
{{- end }}

{{/* Metrics and health of each pod; also gives the pods their names in DNS. */}}
{{- define "iot-lib.opsServiceObject" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "iot-lib.opsService" . }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "iot-lib.labels" . | nindent 4 }}
    app.kubernetes.io/component: ops
spec:
  clusterIP: None
  selector:
    {{- include "iot-lib.selectorLabels" . | nindent 4 }}
  ports:
    - {name: ops, port: 9090, targetPort: ops}
{{- end }}

{{- define "iot-lib.podDisruptionBudget" -}}
{{- if .Values.podDisruptionBudget.enabled -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "iot-lib.metadata" . | nindent 2 }}
spec:
  maxUnavailable: {{ .Values.podDisruptionBudget.maxUnavailable }}
  # A pod that is not ready anyway must not keep a node from being emptied.
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "iot-lib.selectorLabels" . | nindent 6 }}
{{- end }}
{{- end }}

{{- define "iot-lib.autoscaler" -}}
{{- with .Values.autoscaling }}
{{- if .enabled -}}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  {{- include "iot-lib.metadata" $ | nindent 2 }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: StatefulSet
    name: {{ include "iot-lib.fullname" $ }}
  minReplicas: {{ .minReplicas }}
  maxReplicas: {{ .maxReplicas }}
  metrics:
    - type: Resource
      resource:
        name: cpu
        target: {type: AverageValue, averageValue: {{ .targetCPU }}}
{{- end }}
{{- end }}
{{- end }}

{{- define "iot-lib.extraObjects" -}}
{{- range .Values.extraObjects }}
---
{{ tpl (kindIs "string" . | ternary . (toYaml .)) $ }}
{{- end }}
{{- end }}
