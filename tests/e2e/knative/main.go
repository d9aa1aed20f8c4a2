// Reads documents as JSON, one a line, and prints for each what Knative Serving's own webhook would refuse: a line each,
// empty where it accepts. With -allow, a feature of ConfigMap config-features is on.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"

	network "knative.dev/networking/pkg/apis/networking/v1alpha1"
	"knative.dev/pkg/apis"
	"knative.dev/serving/pkg/apis/config"
	serving "knative.dev/serving/pkg/apis/serving/v1"
	"knative.dev/serving/pkg/apis/serving/v1beta1"
)

func main() {
	features := map[string]string{}
	flag.Func("allow", "a feature to enable, such as kubernetes.podspec-persistent-volume-claim", func(name string) error {
		features[name] = "enabled"
		return nil
	})
	flag.Parse()
	enabled, err := config.NewFeaturesConfigFromMap(features)
	if err != nil {
		fail(err)
	}
	defaults, err := config.NewDefaultsConfigFromMap(map[string]string{})
	if err != nil {
		fail(err)
	}
	ctx := apis.WithinCreate(config.ToContext(context.Background(), &config.Config{Defaults: defaults, Features: enabled}))
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		fmt.Println(strings.ReplaceAll(judge(ctx, lines.Bytes()), "\n", "; "))
	}
	if lines.Err() != nil {
		fail(lines.Err())
	}
}

func judge(ctx context.Context, line []byte) string {
	var head struct{ Kind, APIVersion string }
	if err := json.Unmarshal(line, &head); err != nil {
		return err.Error()
	}
	var document any
	switch head.APIVersion + " " + head.Kind {
	case "serving.knative.dev/v1 Service":
		document = &serving.Service{}
	case "serving.knative.dev/v1beta1 DomainMapping":
		document = &v1beta1.DomainMapping{}
	case "networking.internal.knative.dev/v1alpha1 ClusterDomainClaim":
		document = &network.ClusterDomainClaim{}
	default:
		return "nothing of Knative Serving's: " + head.APIVersion + " " + head.Kind
	}
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.DisallowUnknownFields() // as its webhook does
	if err := decoder.Decode(document); err != nil {
		return err.Error()
	}
	if defaulting, ok := document.(apis.Defaultable); ok {
		defaulting.SetDefaults(ctx)
	}
	if validating, ok := document.(apis.Validatable); ok { // a ClusterDomainClaim has nothing but its schema
		if err := validating.Validate(ctx); err != nil {
			return err.Error()
		}
	}
	return ""
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
