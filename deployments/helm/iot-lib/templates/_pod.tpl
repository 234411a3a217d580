{{/* Security context of every container: no privileges. */}}
{{- define "iot-lib.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "iot-lib.podSecurity" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
# Files from secrets belong to this group, and nobody else may read them.
fsGroup: 1000
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/*
The pod of a service. Takes root, config (text), env (list), http (whether there is an
HTTP port), index (label that has the pod's number), restart (policy).
*/}}
{{- define "iot-lib.podTemplate" -}}
{{- $values := .root.Values -}}
metadata:
  labels:
    # Nothing with a version: a new one of the chart alone is no reason for a restart.
    {{- include "iot-lib.selectorLabels" .root | nindent 4 }}
    {{- with $values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- $annotations := deepCopy $values.podAnnotations }}
  {{- if $values.restartOnChange }}
  {{- $_ := set $annotations "checksum/config" (sha256sum .config) }}
  {{- end }}
  {{- with $annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- with .restart }}
  restartPolicy: {{ . }}
  {{- end }}
  serviceAccountName: {{ include "iot-lib.serviceAccountName" .root }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ $values.terminationGracePeriodSeconds }}
  securityContext:
    {{- include "iot-lib.podSecurity" . | nindent 4 }}
  {{- range $key := list "imagePullSecrets" "nodeSelector" "tolerations" "affinity" }}
  {{- with get $values $key }}
  {{ $key }}:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
  {{- with $values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- if $values.topologySpread.enabled }}
  topologySpreadConstraints:
    {{- range $values.topologySpread.keys }}
    - topologyKey: {{ . }}
      maxSkew: 1
      whenUnsatisfiable: {{ $values.topologySpread.whenUnsatisfiable }}
      labelSelector:
        matchLabels:
          {{- include "iot-lib.selectorLabels" $.root | nindent 10 }}
    {{- end }}
  {{- end }}
  containers:
    - name: {{ .root.Chart.Name }}
      image: {{ include "iot-lib.image" .root }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      args: [run, --config, /etc/iot/config/config.yaml]
      env:
        # Comes before what is used of it below.
        - name: POD_INDEX
          valueFrom: {fieldRef: {fieldPath: "metadata.labels['{{ .index }}']"}}
        - {name: IOT_OPS__LISTEN, value: "{{ $values.listen }}:9090"}
        {{- with .env }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
        {{- with $values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with $values.extraEnvFrom }}
      envFrom:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      ports:
        - {name: ops, containerPort: 9090}
        {{- if .http }}
        - {name: http, containerPort: 8080}
        {{- end }}
      livenessProbe:
        httpGet: {path: /livez, port: ops}
        {{- toYaml $values.livenessProbe | nindent 8 }}
      readinessProbe:
        httpGet: {path: /readyz, port: ops}
        {{- toYaml $values.readinessProbe | nindent 8 }}
      {{- with $values.preStopSeconds }}
      lifecycle:
        preStop:
          sleep: {seconds: {{ . }}}
      {{- end }}
      resources:
        {{- toYaml $values.resources | nindent 8 }}
      securityContext:
        {{- include "iot-lib.containerSecurity" . | nindent 8 }}
      volumeMounts:
        # A directory: the service follows changes of the file in it.
        - {name: config, mountPath: /etc/iot/config, readOnly: true}
        {{- if $values.files }}
        - {name: files, mountPath: /etc/iot/files, readOnly: true}
        {{- end }}
        {{- with $values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: config
      configMap: {name: {{ include "iot-lib.fullname" .root }}}
    {{- with $values.files }}
    - name: files
      projected:
        defaultMode: 0440
        sources:
          {{- range $path, $from := . }}
          - {{ ternary "secret" "configMap" (hasKey $from "secret") }}:
              name: {{ $from.secret | default $from.configMap }}
              items: [{key: {{ $from.key }}, path: {{ $path }}}]
          {{- end }}
    {{- end }}
    {{- with $values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}

{{/*
Queries the service's readiness over the network, with its own binary, because the image
has no shell and no curl.
*/}}
{{- define "iot-lib.test" -}}
apiVersion: v1
kind: Pod
metadata:
  name: {{ include "iot-lib.fullname" . }}-test
  namespace: {{ .Release.Namespace }}
  labels:
    app.kubernetes.io/component: test
    app.kubernetes.io/instance: {{ .Release.Name }}
    app.kubernetes.io/managed-by: {{ .Release.Service }}
    helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
  annotations:
    helm.sh/hook: test
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  enableServiceLinks: false
  securityContext:
    {{- include "iot-lib.podSecurity" . | nindent 4 }}
  {{- range $key := list "imagePullSecrets" "nodeSelector" "tolerations" }}
  {{- with get $.Values $key }}
  {{ $key }}:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
  containers:
    - name: ready
      image: {{ include "iot-lib.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [health, --ready, --set, "ops.listen={{ include "iot-lib.opsService" . }}:9090"]
      resources:
        requests: {cpu: 10m, memory: 16Mi}
        limits: {cpu: 100m, memory: 64Mi}
      securityContext:
        {{- include "iot-lib.containerSecurity" . | nindent 8 }}
{{- end }}
