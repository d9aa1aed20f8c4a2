package main

import (
	"bytes"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	auditinternal "k8s.io/apiserver/pkg/apis/audit"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/apiserver/pkg/audit"
	auditlog "k8s.io/apiserver/plugin/pkg/audit/log"
)

// eventJudge answers with the Event as the API server's log backend writes it.
func eventJudge() (judge, error) {
	decoder := serializer.NewCodecFactory(audit.Scheme, serializer.EnableStrict).UniversalDecoder()
	written := &bytes.Buffer{}
	backend := auditlog.NewBackend(written, auditlog.FormatJson, auditv1.SchemeGroupVersion)
	expected := auditv1.SchemeGroupVersion.WithKind("Event")
	return func(question []byte) ([]byte, error) {
		event := &auditinternal.Event{}
		_, kind, err := decoder.Decode(question, (*schema.GroupVersionKind)(nil), event)
		if err != nil {
			return nil, err
		}
		if *kind != expected {
			return nil, fmt.Errorf("a %v, not a %v", *kind, expected)
		}
		written.Reset()
		if !backend.ProcessEvents(event) {
			return nil, fmt.Errorf("the log backend could not write it")
		}
		return bytes.TrimSuffix(written.Bytes(), []byte("\n")), nil
	}, nil
}
