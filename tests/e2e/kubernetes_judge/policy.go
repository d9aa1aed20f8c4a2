package main

import (
	"encoding/json"
	"slices"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	auditinternal "k8s.io/apiserver/pkg/apis/audit"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/audit/policy"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"sigs.k8s.io/yaml"
)

type policyQuestion struct {
	File     []byte `json:"file"` // base64
	Requests []struct {
		User, Verb, Namespace, Group, Resource, Subresource, Name string
		Groups                                                    []string
	} `json:"requests"`
}

type policyAnswer struct {
	Rules     []rule     `json:"rules"`
	Lenient   string     `json:"lenient"` // why strict decoding failed, where it did
	Decisions []decision `json:"decisions"`
}

// rule is a PolicyRule with all that the policy adds to it.
type rule struct {
	Level             auditinternal.Level            `json:"level"`
	Users             []string                       `json:"users"`
	UserGroups        []string                       `json:"userGroups"`
	Verbs             []string                       `json:"verbs"`
	Resources         []auditinternal.GroupResources `json:"resources"`
	Namespaces        []string                       `json:"namespaces"`
	NonResourceURLs   []string                       `json:"nonResourceURLs"`
	OmitStages        []auditinternal.Stage          `json:"omitStages"`
	OmitManagedFields bool                           `json:"omitManagedFields"`
}

type decision struct {
	Level             auditinternal.Level   `json:"level"`
	OmitStages        []auditinternal.Stage `json:"omitStages"`
	OmitManagedFields bool                  `json:"omitManagedFields"`
}

func policyJudge() (judge, error) {
	strict := serializer.NewCodecFactory(audit.Scheme, serializer.EnableStrict).UniversalDecoder()
	return func(question []byte) ([]byte, error) {
		var asked policyQuestion
		if err := json.Unmarshal(question, &asked); err != nil {
			return nil, err
		}
		loaded, err := policy.LoadPolicyFromBytes(asked.File)
		if err != nil {
			return nil, err
		}
		var answer policyAnswer
		// The loader says so in the log only.
		if _, _, err := strict.Decode(asked.File, nil, &auditinternal.Policy{}); runtime.IsStrictDecodingError(err) {
			answer.Lenient = err.Error()
		}
		evaluator := policy.NewPolicyRuleEvaluator(loaded)
		for _, one := range loaded.Rules { // by now with the policy's stages
			answer.Rules = append(answer.Rules, rule{
				one.Level, one.Users, one.UserGroups, one.Verbs, one.Resources, one.Namespaces, one.NonResourceURLs,
				sorted(one.OmitStages), omits(one.OmitManagedFields, loaded.OmitManagedFields),
			})
		}
		for _, request := range asked.Requests {
			config := evaluator.EvaluatePolicyRule(authorizer.AttributesRecord{
				User:            &user.DefaultInfo{Name: request.User, Groups: request.Groups},
				Verb:            request.Verb,
				Namespace:       request.Namespace,
				APIGroup:        request.Group,
				Resource:        request.Resource,
				Subresource:     request.Subresource,
				Name:            request.Name,
				ResourceRequest: true,
			})
			answer.Decisions = append(answer.Decisions,
				decision{config.Level, sorted(config.OmitStages), config.OmitManagedFields})
		}
		return json.Marshal(answer)
	}, nil
}

func sorted(stages []auditinternal.Stage) []auditinternal.Stage {
	copied := slices.Clone(stages)
	slices.Sort(copied)
	return copied
}

func omits(ofRule *bool, ofPolicy bool) bool {
	if ofRule != nil {
		return *ofRule
	}
	return ofPolicy
}

type yamlQuestion struct {
	File []byte `json:"file"` // base64
}

func yamlJudge() (judge, error) {
	return func(question []byte) ([]byte, error) {
		var asked yamlQuestion
		if err := json.Unmarshal(question, &asked); err != nil {
			return nil, err
		}
		converted, err := yaml.YAMLToJSON(asked.File)
		if err != nil {
			return nil, err
		}
		_, err = yaml.YAMLToJSONStrict(asked.File)
		return json.Marshal(map[string]any{"json": json.RawMessage(converted), "twice": err != nil})
	}, nil
}
