{{/*
Addresses as a JSON list. Takes given: a list, or text with commas, as the services take it.
A variable may also contain a JSON list.
*/}}
{{- define "iot-lib.addresses" -}}
{{- $given := .given -}}
{{- if kindIs "string" $given -}}
{{- $given = regexMatch "^\\s*\\[\\s*(\"|\\])" $given | ternary $given (toJson (splitList "," $given)) | fromJsonArray -}}
{{- end -}}
{{- $addresses := list -}}
{{- range $given -}}
{{- range splitList "," (toString .) -}}
{{- with trim . -}}{{- $addresses = append $addresses . -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $addresses -}}
{{- end }}

{{/*
The addresses that a service connects to, as a JSON list: those of its variables, which take
precedence, or else those of its settings. Next to a variable whose value is elsewhere (in a
Secret), those of the settings are kept: nothing else says what it contains. Takes root,
variables (names) and given (from the settings).
*/}}
{{- define "iot-lib.connections" -}}
{{- $names := .variables -}}
{{- $found := list -}}
{{- $elsewhere := false -}}
{{- range .root.Values.extraEnv -}}
{{- if and . (has .name $names) -}}
{{- if .value -}}
{{- $found = concat $found (include "iot-lib.addresses" (dict "given" .value) | fromJsonArray) -}}
{{- else -}}
{{- $elsewhere = true -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if or $elsewhere (not $found) -}}
{{- $found = concat $found (include "iot-lib.addresses" (dict "given" .given) | fromJsonArray) -}}
{{- end -}}
{{- toJson $found -}}
{{- end }}

{{/*
Ports in addresses such as host:9092, mqtt://host:1883 or redis://host:6379/0, as JSON.
Takes addresses (list) and default (port of those that name none).
*/}}
{{- define "iot-lib.ports" -}}
{{- $ports := list -}}
{{- $given := .default -}}
{{- range .addresses -}}
{{- $default := ternary 8883 $given (regexMatch "^(?i)(mqtts|ssl)://" .) -}}
{{- $port := regexFind ":[0-9]+(/|\\?|$)" (regexReplaceAll "^[A-Za-z_-]+://" . "") | trimPrefix ":" | trimSuffix "/" | trimSuffix "?" -}}
{{- $ports = append $ports (int (default $default $port)) -}}
{{- end -}}
{{- toJson (uniq $ports) -}}
{{- end }}

{{/* Ports of a rule as a list. Takes ports, protocols and path. */}}
{{- define "iot-lib.portList" -}}
{{- $path := .path -}}
{{- $protocols := .protocols -}}
{{- range .ports }}
{{- $port := include "iot-lib.numberOrPercentage" (dict "value" . "path" $path) }}
{{- range $protocols }}
- {protocol: {{ . }}, port: {{ $port }}}
{{- end }}
{{- end }}
{{- end }}

{{/*
One rule of egress. Takes rule (ports and to, from the values) and found (ports, as JSON,
used when the rule names none).
*/}}
{{- define "iot-lib.egress" -}}
{{- $rule := .rule | default dict -}}
- ports:
    {{- include "iot-lib.portList" (dict "ports" ($rule.ports | default (fromJsonArray .found))
        "protocols" (list "TCP") "path" "networkPolicy: ports") | trim | nindent 4 }}
  {{- with $rule.to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{/* Takes root, suffix (of the pods), http (whether they have an HTTP port) and egress (text, rules). */}}
{{- define "iot-lib.networkPolicy" -}}
{{- $policy := .root.Values.networkPolicy | default dict -}}
{{- $dns := $policy.dns | default dict -}}
{{- if $policy.enabled -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  {{- include "iot-lib.metadata" (dict "root" .root "suffix" .suffix) | nindent 2 }}
spec:
  podSelector:
    matchLabels:
      {{- include "iot-lib.podSelector" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
  ingress:
    - ports:
        - {protocol: TCP, port: ops}
      from:
        # helm test
        - podSelector:
            matchLabels:
              app.kubernetes.io/component: test
              app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
        {{- with ($policy.monitoring).from }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    {{- if .http }}
    - ports:
        - {protocol: TCP, port: http}
      {{- with ($policy.http).from }}
      from:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    {{- end }}
    {{- with $policy.extraIngress }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  egress:
    - ports:
        {{- include "iot-lib.portList" (dict "ports" ($dns.ports | default (list 53))
            "protocols" (list "UDP" "TCP") "path" "networkPolicy.dns.ports") | trim | nindent 8 }}
      {{- with $dns.to }}
      to:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    {{- with .egress }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- with $policy.extraEgress }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}
{{- end }}
