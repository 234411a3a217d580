{{/*
Ports in addresses such as host:9092, mqtt://host:1883 or redis://host:6379/0, as JSON.
Takes addresses (list) and default (port of those that name none).
*/}}
{{- define "iot-lib.ports" -}}
{{- $ports := list -}}
{{- $given := .default -}}
{{- range .addresses -}}
{{- $default := ternary 8883 $given (regexMatch "^(mqtts|ssl)://" .) -}}
{{- range splitList "," (regexReplaceAll "^[a-z-]+://" . "") -}}
{{- $port := regexFind ":[0-9]+(/|$)" . | trimPrefix ":" | trimSuffix "/" -}}
{{- $ports = append $ports (int (default $default $port)) -}}
{{- end -}}
{{- end -}}
{{- toJson (uniq $ports) -}}
{{- end }}

{{/*
One rule of egress. Takes rule (ports and to, from the values) and found (ports, as JSON,
used when the rule names none).
*/}}
{{- define "iot-lib.egress" -}}
- ports:
    {{- range .rule.ports | default (fromJsonArray .found) }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
  {{- with .rule.to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{/* Takes root, http (whether there is an HTTP port) and egress (text, rules). */}}
{{- define "iot-lib.networkPolicy" -}}
{{- $policy := .root.Values.networkPolicy -}}
{{- if $policy.enabled -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  {{- include "iot-lib.metadata" .root | nindent 2 }}
spec:
  podSelector:
    matchLabels:
      {{- include "iot-lib.selectorLabels" .root | nindent 6 }}
  policyTypes: [Ingress, Egress]
  ingress:
    - ports:
        - {protocol: TCP, port: ops}
      from:
        # helm test
        - podSelector:
            matchLabels:
              app.kubernetes.io/component: test
              app.kubernetes.io/instance: {{ .root.Release.Name }}
        {{- with $policy.monitoring.from }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    {{- if .http }}
    - ports:
        - {protocol: TCP, port: http}
      {{- with $policy.http.from }}
      from:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    {{- end }}
    {{- with $policy.extraIngress }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  egress:
    - ports:
        - {protocol: UDP, port: 53}
        - {protocol: TCP, port: 53}
      {{- with $policy.dns.to }}
      to:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    {{- .egress | nindent 4 }}
    {{- with $policy.extraEgress }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}
{{- end }}
