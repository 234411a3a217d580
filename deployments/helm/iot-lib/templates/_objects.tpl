{{- define "iot-lib.serviceAccount" -}}
{{- $account := .Values.serviceAccount | default dict -}}
{{- if $account.create -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  {{- $metadata := include "iot-lib.metadata" (dict "root" . "annotations" $account.annotations "path" "serviceAccount") | fromYaml }}
  {{- $_ := set $metadata "name" (include "iot-lib.serviceAccountName" .) }}
  {{- toYaml $metadata | nindent 2 }}
# The services never talk to the Kubernetes API.
automountServiceAccountToken: false
{{- end }}
{{- end }}

{{/*
Metrics and health of each pod; also gives the pods of a StatefulSet their names in DNS. Takes
root and suffix (of the pods).
*/}}
{{- define "iot-lib.opsServiceObject" -}}
apiVersion: v1
kind: Service
metadata:
  {{- include "iot-lib.metadata" (dict "root" .root "suffix" (printf "%s-ops" (.suffix | default "")) "component" "ops") | nindent 2 }}
spec:
  clusterIP: None
  selector:
    {{- include "iot-lib.podSelector" . | nindent 4 }}
  ports:
    - {name: ops, port: 9090, targetPort: ops}
{{- end }}

{{/* Takes root and suffix (of the pods). */}}
{{- define "iot-lib.podDisruptionBudget" -}}
{{- $budget := .root.Values.podDisruptionBudget | default dict -}}
{{- if $budget.enabled -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "iot-lib.metadata" (dict "root" .root "suffix" .suffix) | nindent 2 }}
spec:
  maxUnavailable: {{ include "iot-lib.numberOrPercentage" (dict
      "value" (kindIs "invalid" $budget.maxUnavailable | ternary 1 $budget.maxUnavailable)
      "path" "podDisruptionBudget.maxUnavailable") }}
  # A pod that is not ready anyway must not keep a node from being emptied.
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "iot-lib.podSelector" . | nindent 6 }}
{{- end }}
{{- end }}

{{/*
Takes root, path (of the values with enabled, minReplicas, maxReplicas and targetCPU), min (the
number of pods if the values name none), kind (of what is scaled) and suffix (of its name).
*/}}
{{- define "iot-lib.autoscaler" -}}
{{- with get .root.Values .path }}
{{- if .enabled -}}
{{- $least := .minReplicas | default $.min | int64 -}}
{{- $most := .maxReplicas | default (max $least 5) | int64 -}}
{{- if lt $most $least -}}
{{- fail (printf "%s.maxReplicas: %d is less than minReplicas, %d" $.path $most $least) -}}
{{- end -}}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  {{- include "iot-lib.metadata" (dict "root" $.root "suffix" $.suffix) | nindent 2 }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: {{ $.kind }}
    name: {{ printf "%s%s" (include "iot-lib.fullname" $.root) ($.suffix | default "") | quote }}
  minReplicas: {{ $least }}
  maxReplicas: {{ $most }}
  metrics:
    - type: Resource
      resource:
        name: cpu
        target: {type: AverageValue, averageValue: {{ .targetCPU | default "1" | toString | quote }}}
{{- end }}
{{- end }}
{{- end }}

{{- define "iot-lib.extraObjects" -}}
{{- range .Values.extraObjects }}
{{- if . }}
---
{{ tpl (kindIs "string" . | ternary . (toYaml .)) $ }}
{{- end }}
{{- end }}
{{- end }}
