// Two receivers written with other people's code: the types and decoder of the API server, and the CloudEvents SDK
// for Go. Each listens on 127.0.0.1 (PORT 0: any), prints "listening PORT", then a line for each record that it
// accepted ("accepted ID") and for each request that it refused ("refused REASON", and answers 400).
//
//	receivers audit-webhook PORT
//	receivers cloudevents PORT
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"

	cloudevents "github.com/cloudevents/sdk-go/v2"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
)

// receive returns the ids of a request's records, or what is wrong with it.
type receive func(*http.Request) ([]string, error)

func main() {
	if len(os.Args) != 3 {
		fail("usage: receivers audit-webhook|cloudevents PORT")
	}
	kinds := map[string]func() receive{"audit-webhook": auditWebhook, "cloudevents": cloudEvents}
	kind, known := kinds[os.Args[1]]
	if !known {
		fail("no such receiver: " + os.Args[1])
	}
	listener, err := net.Listen("tcp", "127.0.0.1:"+os.Args[2])
	if err != nil {
		fail(err.Error())
	}
	fmt.Println("listening", listener.Addr().(*net.TCPAddr).Port)
	// As narrow as servers in front of brokers are: 16 KiB of headers (and the 4 KiB that Go adds).
	server := http.Server{Handler: answering(kind()), MaxHeaderBytes: 16 << 10}
	fail(server.Serve(listener).Error())
}

func answering(receive receive) http.Handler {
	return http.HandlerFunc(func(response http.ResponseWriter, request *http.Request) {
		ids, err := receive(request)
		if err != nil {
			reason := strings.ReplaceAll(err.Error(), "\n", " ")
			fmt.Println("refused", reason)
			http.Error(response, reason, http.StatusBadRequest)
			return
		}
		for _, id := range ids {
			fmt.Println("accepted", id)
		}
	})
}

// auditWebhook decodes strictly: unknown fields, duplicate fields and wrong types are errors.
func auditWebhook() receive {
	scheme := runtime.NewScheme()
	if err := auditv1.AddToScheme(scheme); err != nil {
		fail(err.Error())
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	expected := auditv1.SchemeGroupVersion.WithKind("EventList")
	return func(request *http.Request) ([]string, error) {
		body, err := io.ReadAll(request.Body)
		if err != nil {
			return nil, err
		}
		var list auditv1.EventList
		_, kind, err := decoder.Decode(body, (*schema.GroupVersionKind)(nil), &list)
		if err != nil {
			return nil, err
		}
		if *kind != expected {
			return nil, fmt.Errorf("a %v, not a %v", *kind, expected)
		}
		var ids []string
		for _, event := range list.Items {
			if event.AuditID == "" {
				return nil, fmt.Errorf("an event without auditID")
			}
			ids = append(ids, string(event.AuditID))
		}
		return ids, nil
	}
}

// cloudEvents lets the SDK read the request and validate the event.
func cloudEvents() receive {
	return func(request *http.Request) ([]string, error) {
		event, err := cloudevents.NewEventFromHTTPRequest(request)
		if err != nil {
			return nil, err
		}
		if err := event.Validate(); err != nil {
			return nil, err
		}
		var data map[string]any
		if err := event.DataAs(&data); err != nil {
			return nil, err
		}
		return []string{event.ID()}, nil
	}
}

func fail(reason string) {
	fmt.Fprintln(os.Stderr, reason)
	os.Exit(1)
}
