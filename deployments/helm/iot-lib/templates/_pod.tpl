{{/*
Variables of the container. One in extraEnv replaces the chart's own of the same name, because
a name must be unique. Takes root, env (list) and extraEnv (from the values, after those of all pods).
*/}}
{{- define "iot-lib.env" -}}
{{- $given := dict -}}
{{- $order := list -}}
{{- range concat (.root.Values.extraEnv | default list) (.extraEnv | default list) -}}
{{- if . -}}
{{- $one := deepCopy . -}}
{{- $name := required "extraEnv: a variable needs a name" .name -}}
{{- if kindIs "invalid" .value -}}
{{- $_ := unset $one "value" -}}
{{- else -}}
{{- $_ := set $one "value" (include "iot-lib.text" (dict "value" .value "path" (printf "extraEnv.%s" $name))) -}}
{{- end -}}
{{- $_ := set $given $name $one -}}
{{- $order = append $order $name | uniq -}}
{{- end -}}
{{- end -}}
{{- $env := list -}}
{{- $own := list -}}
{{- range .env -}}
{{- $own = append $own .name -}}
{{- $env = append $env (get $given .name | default .) -}}
{{- end -}}
{{- range $order -}}
{{- if not (has . $own) -}}{{- $env = append $env (get $given .) -}}{{- end -}}
{{- end -}}
{{- toYaml $env -}}
{{- end }}

{{/*
A probe; none if its value is null. Takes probe (from the values), name and path (of the
request).
*/}}
{{- define "iot-lib.probe" -}}
{{- if kindIs "map" .probe -}}
{{- $probe := deepCopy .probe -}}
{{- if not (or $probe.httpGet $probe.exec $probe.tcpSocket $probe.grpc) -}}
{{- $_ := set $probe "httpGet" (dict "path" .path "port" "ops") -}}
{{- end -}}
{{ .name }}:
  {{- toYaml $probe | nindent 2 }}
{{- end -}}
{{- end }}

{{/*
The pod of a service. Takes root, config (text), env (list), http (whether there is an
HTTP port), index (label that has the pod's number, if it has one), restart (policy), suffix (of
the pods), labels (in addition), extraEnv and resources (from the values of these pods).
*/}}
{{- define "iot-lib.podTemplate" -}}
{{- $values := .root.Values -}}
{{- $service := include "iot-lib.service" .root -}}
{{- $listen := $values.listen | default "0.0.0.0" -}}
{{- $spread := $values.topologySpread | default dict -}}
{{- $files := dict -}}
{{- range $path, $from := $values.files -}}
{{- if $from -}}{{- $_ := set $files $path $from -}}{{- end -}}
{{- end -}}
metadata:
  {{- /* Nothing with a version: a new one of the chart alone is no reason for a restart. */}}
  {{- $labels := include "iot-lib.texts" (dict "values" $values.podLabels "path" "podLabels") | fromJson }}
  labels:
    {{- /* The selector's own labels stay: a pod without them would belong to nothing. */}}
    {{- mergeOverwrite $labels (.labels | default dict) (include "iot-lib.podSelector" . | fromYaml) | toYaml | nindent 4 }}
  {{- $annotations := include "iot-lib.texts" (dict "values" $values.podAnnotations "path" "podAnnotations") | fromJson }}
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
  serviceAccountName: {{ include "iot-lib.serviceAccountName" .root | quote }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- with $values.terminationGracePeriodSeconds }}
  terminationGracePeriodSeconds: {{ int64 . }}
  {{- end }}
  {{- with $values.podSecurityContext }}
  securityContext:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.nodeSelector }}
  nodeSelector:
    {{- include "iot-lib.texts" (dict "values" . "path" "nodeSelector") | fromJson | toYaml | nindent 4 }}
  {{- end }}
  {{- range $key := list "imagePullSecrets" "tolerations" "affinity" }}
  {{- with get $values $key }}
  {{ $key }}:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
  {{- with $values.priorityClassName }}
  priorityClassName: {{ quote . }}
  {{- end }}
  {{- if and $spread.enabled $spread.keys }}
  topologySpreadConstraints:
    {{- range $spread.keys }}
    - topologyKey: {{ quote . }}
      maxSkew: 1
      whenUnsatisfiable: {{ $spread.whenUnsatisfiable | default "ScheduleAnyway" }}
      labelSelector:
        matchLabels:
          {{- include "iot-lib.podSelector" $ | nindent 10 }}
      {{- if not $.index }}
      # Pods that a rolling update is about to remove do not count.
      matchLabelKeys: [pod-template-hash]
      {{- end }}
    {{- end }}
  {{- end }}
  containers:
    - name: {{ $service }}
      image: {{ include "iot-lib.image" .root | quote }}
      {{- with ($values.image).pullPolicy }}
      imagePullPolicy: {{ . }}
      {{- end }}
      args: [run, --config, /etc/iot/config/config.yaml]
      env:
        {{- /* POD_INDEX comes before what uses it. */}}
        {{- $env := list }}
        {{- with .index }}
        {{- $index := dict "fieldRef" (dict "fieldPath" (printf "metadata.labels['%s']" .)) }}
        {{- $env = append $env (dict "name" "POD_INDEX" "valueFrom" $index) }}
        {{- end }}
        {{- $env = append $env (dict "name" "IOT_OPS__LISTEN" "value" (printf "%s:9090" $listen)) }}
        {{- include "iot-lib.env" (dict "root" .root "env" (concat $env .env) "extraEnv" .extraEnv) | nindent 8 }}
      {{- with $values.extraEnvFrom }}
      envFrom:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      ports:
        - {name: ops, containerPort: 9090}
        {{- if .http }}
        - {name: http, containerPort: 8080}
        {{- end }}
      {{- range $name, $path := dict "livenessProbe" "/livez" "readinessProbe" "/readyz" }}
      {{- with include "iot-lib.probe" (dict "probe" (get $values $name) "name" $name "path" $path) }}
      {{- . | nindent 6 }}
      {{- end }}
      {{- end }}
      {{- with $values.preStopSeconds }}
      lifecycle:
        preStop:
          sleep: {seconds: {{ int64 . }}}
      {{- end }}
      {{- with .resources | default $values.resources }}
      resources:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.securityContext }}
      securityContext:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      volumeMounts:
        # A directory: the service follows changes of the file in it.
        - {name: config, mountPath: /etc/iot/config, readOnly: true}
        {{- if $files }}
        - {name: files, mountPath: /etc/iot/files, readOnly: true}
        {{- end }}
        {{- with $values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: config
      configMap: {name: {{ include "iot-lib.fullname" .root | quote }}}
    {{- if $files }}
    - name: files
      projected:
        defaultMode: 0440
        sources:
          {{- range $path, $from := $files }}
          - {{ ternary "secret" "configMap" (not (empty $from.secret)) }}:
              name: {{ $from.secret | default $from.configMap | quote }}
              items: [{key: {{ quote $from.key }}, path: {{ quote $path }}}]
          {{- end }}
    {{- end }}
    {{- with $values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}

{{/*
Queries the service's readiness over the network, with its own binary, because the image
has no shell and no curl. Takes root and suffix (of the pods).
*/}}
{{- define "iot-lib.test" -}}
{{- with .root -}}
apiVersion: v1
kind: Pod
metadata:
  name: {{ include "iot-lib.fullname" . }}{{ $.suffix | default "" }}-test
  namespace: {{ .Release.Namespace | quote }}
  labels:
    app.kubernetes.io/component: test
    app.kubernetes.io/instance: {{ .Release.Name | quote }}
    app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
    helm.sh/chart: {{ include "iot-lib.version" (printf "%s-%s" .Chart.Name .Chart.Version) | quote }}
  annotations:
    helm.sh/hook: test
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- with .Values.podSecurityContext }}
  securityContext:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- include "iot-lib.texts" (dict "values" . "path" "nodeSelector") | fromJson | toYaml | nindent 4 }}
  {{- end }}
  {{- range $key := list "imagePullSecrets" "tolerations" }}
  {{- with get $.root.Values $key }}
  {{ $key }}:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
  containers:
    - name: ready
      image: {{ include "iot-lib.image" . | quote }}
      {{- with (.Values.image).pullPolicy }}
      imagePullPolicy: {{ . }}
      {{- end }}
      args: [health, --ready, --set, "ops.listen={{ include "iot-lib.opsService" $ }}:9090"]
      resources:
        requests: {cpu: 10m, memory: 16Mi}
        limits: {cpu: 100m, memory: 64Mi}
      {{- with .Values.securityContext }}
      securityContext:
        {{- toYaml . | nindent 8 }}
      {{- end }}
{{- end }}
{{- end }}
