{{/* Objects have the names that docs, alerts and the guard know: there is one webhook of this name in a cluster. */}}

{{- define "audit.image" -}}
{{- $tag := .Values.image.tag | default .Chart.AppVersion -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ $tag }}
{{- end -}}
{{- end -}}

{{- define "audit.port" -}}
{{- if hasPrefix "gke" .Values.provider }}10250{{ else }}8443{{ end -}}
{{- end -}}

{{/* A container's env, from a mapping. */}}
{{- define "audit.env" -}}
{{- range $name, $value := . }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end -}}

{{- define "audit.autopilot" -}}
{{- if eq .Values.provider "gke-autopilot" }}yes{{ end -}}
{{- end -}}
