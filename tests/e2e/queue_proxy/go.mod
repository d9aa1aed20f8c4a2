module github.com/kube-audit-function/queue-proxy

go 1.26.0

require knative.dev/serving v0.42.2
