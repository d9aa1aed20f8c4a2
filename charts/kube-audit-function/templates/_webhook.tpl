{{/* The webhook configuration; with "open" its token is left open, for `watch` to compare with. The reasons for the rules
are in deploy/webhook.yaml. */}}
{{- define "audit.webhook" -}}
{{- $root := .root -}}
{{- $path := .open | ternary (printf "/log-request/%s/TOKEN" $root.Values.clusterName) (include "audit.path" $root) -}}
{{- if not $root.Values.token.enabled }}{{ $path = "/log-request" }}{{ end -}}
{{- $excluded := concat (list $root.Release.Namespace) $root.Values.webhook.excludedNamespaces -}}
{{- if include "audit.autopilot" $root -}}
{{- $excluded = concat $excluded (list "kube-system" "kube-node-lease" "gke-gmp-system" "gke-managed-cim") | uniq -}}
{{- end -}}
{{- $annotations := dict -}}
{{- $labels := dict -}}
{{- if eq $root.Values.tls.mode "cert-manager" -}}
{{- $_ := set $annotations "cert-manager.io/inject-ca-from" (printf "%s/kube-audit-function-tls" $root.Release.Namespace) -}}
{{- end -}}
{{- if eq $root.Values.provider "aks" -}}
{{- $_ := set $annotations "admissions.enforcer/disabled" "true" -}}
{{- $_ := set $labels "admissions.enforcer/disabled" "true" -}}
{{- end -}}
{{- if $root.Values.guard.enabled -}}
{{- $_ := set $labels "kube-audit-function/guarded" "true" -}}
{{- end -}}
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata:
  name: kube-audit-function
  {{- with $labels }}
  labels:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
webhooks:
  - name: kube-audit-function.kube-audit-function.svc
    clientConfig:
      service:
        name: kube-audit-function
        namespace: {{ $root.Release.Namespace }}
        path: {{ $path }}
        port: 443
      {{- with include "audit.caBundle" $root }}
      caBundle: {{ . }}
      {{- end }}
    admissionReviewVersions: [v1]
    failurePolicy: {{ $root.Values.webhook.failurePolicy }}
    timeoutSeconds: {{ $root.Values.webhook.timeoutSeconds }}
    sideEffects: None
    rules:
      - operations: [CREATE, UPDATE, DELETE, CONNECT]
        apiGroups: ["*"]
        apiVersions: ["*"]
        resources: ["*/*"]
        scope: "*"
    namespaceSelector:
      matchExpressions:
        - key: kubernetes.io/metadata.name
          operator: NotIn
          values:
            {{- toYaml $excluded | nindent 12 }}
    matchConditions:
      # Leader elections and node heartbeats: several a second, for ever.
      - name: not-a-lease
        expression: >-
          !(request.resource.group == "coordination.k8s.io" && request.resource.resource == "leases")
      # Events tell what controllers did; the doing itself is recorded.
      - name: not-an-event
        expression: >-
          !(request.resource.resource == "events" && request.resource.group in ["", "events.k8s.io"])
      # A node that reports its own state. Anybody else who writes a node's status is recorded.
      - name: not-a-node-heartbeat
        expression: >-
          !(request.resource.group == "" && request.resource.resource == "nodes"
            && has(request.subResource) && request.subResource == "status"
            && has(request.userInfo.username) && request.userInfo.username.startsWith("system:node:"))
      # A node that reports how its pods are.
      - name: not-a-pod-heartbeat
        expression: >-
          !(request.resource.group == "" && request.resource.resource == "pods"
            && has(request.subResource) && request.subResource == "status"
            && has(request.userInfo.username) && request.userInfo.username.startsWith("system:node:"))
      # Questions, not changes ("who is this?", "may they?"); the first carry tokens.
      - name: not-an-access-review
        expression: >-
          !(request.resource.group in ["authentication.k8s.io", "authorization.k8s.io"])
{{- end -}}
