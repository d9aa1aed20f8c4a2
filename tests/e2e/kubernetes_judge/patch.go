package main

import (
	"encoding/json"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
)

type patchQuestion struct {
	Object json.RawMessage `json:"object"`
	Patch  json.RawMessage `json:"patch"`
}

// patchJudge answers with the patched object, patched as the API server patches.
func patchJudge() (judge, error) {
	return func(question []byte) ([]byte, error) {
		var asked patchQuestion
		if err := json.Unmarshal(question, &asked); err != nil {
			return nil, err
		}
		patch, err := jsonpatch.DecodePatch(asked.Patch)
		if err != nil {
			return nil, err
		}
		return patch.Apply(asked.Object)
	}, nil
}
