package main

import (
	"bytes"
	"encoding/json"

	admissionv1 "k8s.io/api/admission/v1"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
)

// reviewQuestion is a review's content; its objects are what clients sent, for the API server to decode.
type reviewQuestion struct {
	UID                          types.UID
	Resource                     metav1.GroupVersionResource
	SubResource, Name, Namespace string
	Operation                    admissionv1.Operation
	User                         authenticationv1.UserInfo
	DryRun                       bool
	Object, OldObject, Options   json.RawMessage
}

func reviewJudge() (judge, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		admissionv1.AddToScheme, appsv1.AddToScheme, authenticationv1.AddToScheme, corev1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	metav1.AddToGroupVersion(scheme, metav1.SchemeGroupVersion) // the options
	codecs := serializer.NewCodecFactory(scheme)
	objects := codecs.UniversalDeserializer()
	// As the API server's client of webhooks encodes (k8s.io/apiserver/pkg/util/webhook, NewClientManager).
	encoder := codecs.LegacyCodec(admissionv1.SchemeGroupVersion)
	return func(question []byte) ([]byte, error) {
		var asked reviewQuestion
		if err := json.Unmarshal(question, &asked); err != nil {
			return nil, err
		}
		if asked.User.Extra == nil {
			asked.User.Extra = map[string]authenticationv1.ExtraValue{}
		}
		request := &admissionv1.AdmissionRequest{
			UID:                asked.UID,
			Resource:           asked.Resource,
			SubResource:        asked.SubResource,
			RequestResource:    &asked.Resource,
			RequestSubResource: asked.SubResource,
			Name:               asked.Name,
			Namespace:          asked.Namespace,
			Operation:          asked.Operation,
			UserInfo:           asked.User,
			DryRun:             &asked.DryRun,
		}
		for _, part := range []struct {
			source json.RawMessage
			into   *runtime.RawExtension
		}{{asked.Object, &request.Object}, {asked.OldObject, &request.OldObject}, {asked.Options, &request.Options}} {
			object, err := decoded(objects, part.source)
			if err != nil {
				return nil, err
			}
			part.into.Object = object
			if object != nil && request.Kind.Kind == "" {
				kind := object.GetObjectKind().GroupVersionKind()
				request.Kind = metav1.GroupVersionKind{Group: kind.Group, Version: kind.Version, Kind: kind.Kind}
				request.RequestKind = &request.Kind
			}
		}
		encoded := &bytes.Buffer{}
		if err := encoder.Encode(&admissionv1.AdmissionReview{Request: request}, encoded); err != nil {
			return nil, err
		}
		return bytes.TrimSuffix(encoded.Bytes(), []byte("\n")), nil
	}, nil
}

// decoded returns the typed object of a kind that is built in, an unstructured one for custom resources.
func decoded(objects runtime.Decoder, source json.RawMessage) (runtime.Object, error) {
	if len(source) == 0 || bytes.Equal(source, []byte("null")) {
		return nil, nil
	}
	object, _, err := objects.Decode(source, nil, nil)
	if err == nil || !runtime.IsNotRegisteredError(err) {
		return object, err
	}
	object, _, err = unstructured.UnstructuredJSONScheme.Decode(source, nil, nil)
	return object, err
}
