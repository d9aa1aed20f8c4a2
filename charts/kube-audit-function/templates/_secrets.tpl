{{/*
What must stay as it is when the release is upgraded: it is read from the cluster, and made only where it is not there.
`helm template` reads no cluster: give `token.tokens`, and tls.mode cert-manager or existing, where it renders.
*/}}

{{/* The data of the Secret of tokens, as YAML: all that is there, with this cluster's own. */}}
{{- define "audit.tokens" -}}
{{- if not (hasKey .Values.token "made") -}}
  {{- $there := lookup "v1" "Secret" .Release.Namespace "kube-audit-clusters" | default dict -}}
  {{- $data := deepCopy ($there.data | default dict) -}}
  {{- if .Values.token.tokens -}}
    {{- $_ := set $data .Values.clusterName (printf "%s\n" (join "\n" .Values.token.tokens) | b64enc) -}}
  {{- else if not (hasKey $data .Values.clusterName) -}}
    {{- $_ := set $data .Values.clusterName (printf "%s\n" (randAlphaNum 32 | lower) | b64enc) -}}
  {{- end -}}
  {{- $_ := set .Values.token "made" $data -}}
{{- end -}}
{{- toYaml .Values.token.made -}}
{{- end -}}

{{/* The path that the webhook calls, with the newest token. */}}
{{- define "audit.path" -}}
{{- if .Values.token.enabled -}}
  {{- $data := include "audit.tokens" . | fromYaml -}}
  {{- $newest := get $data .Values.clusterName | b64dec | trim | splitList "\n" | first -}}
  /log-request/{{ .Values.clusterName }}/{{ $newest }}
{{- else -}}
  /log-request
{{- end -}}
{{- end -}}

{{/* The data of the Secret with the certificate, as YAML; empty where others make it. */}}
{{- define "audit.certificate" -}}
{{- if eq .Values.tls.mode "generated" -}}
{{- if not (hasKey .Values.tls "made") -}}
  {{- $there := lookup "v1" "Secret" .Release.Namespace "kube-audit-function-tls" | default dict -}}
  {{- $data := $there.data | default dict -}}
  {{- if not (and (hasKey $data "ca.crt") (hasKey $data "tls.crt") (hasKey $data "tls.key")) -}}
    {{- $name := printf "kube-audit-function.%s.svc" .Release.Namespace -}}
    {{- $ca := genCA "kube-audit-function CA" 3650 -}}
    {{- $pair := genSignedCert "kube-audit-function" nil (list $name) 3650 $ca -}}
    {{- $data = dict "ca.crt" ($ca.Cert | b64enc) "tls.crt" ($pair.Cert | b64enc) "tls.key" ($pair.Key | b64enc) -}}
  {{- end -}}
  {{- $_ := set .Values.tls "made" $data -}}
{{- end -}}
{{- toYaml .Values.tls.made -}}
{{- end -}}
{{- end -}}

{{- define "audit.caBundle" -}}
{{- if eq .Values.tls.mode "generated" -}}
  {{- get (include "audit.certificate" . | fromYaml) "ca.crt" -}}
{{- else if eq .Values.tls.mode "existing" -}}
  {{- .Values.tls.caBundle -}}
{{- end -}}
{{- end -}}
