package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// makeAll prints, in JSON, what a log of Go's own makes of the entries at each size: checkpoints by "SIZE", requests to
// a witness by "OLD SIZE", and proofs by "INDEX SIZE". Signing is deterministic, so that others can make the same bytes.
func makeAll() error {
	t, err := readTree()
	if err != nil {
		return err
	}
	signer, err := note.NewSigner(*skey)
	if err != nil {
		return err
	}
	checkpoints, requests, proofs := map[string]string{}, map[string]string{}, map[string]string{}
	var earlier []int64
	for _, text := range flags.Args() {
		size, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return err
		}
		root, err := tlog.TreeHash(size, t)
		if err != nil {
			return err
		}
		head := torchwood.Checkpoint{Origin: *origin, Tree: tlog.Tree{N: size, Hash: root}}
		signed, err := note.Sign(&note.Note{Text: head.String()}, signer)
		if err != nil {
			return err
		}
		checkpoints[text] = string(signed)
		earlier = append(earlier, size)
		for _, old := range earlier {
			path := tlog.TreeProof{}
			if old > 0 {
				if path, err = tlog.ProveTree(size, old, t); err != nil {
					return err
				}
			}
			body := fmt.Sprintf("old %d\n", old)
			for _, hash := range path {
				body += hash.String() + "\n"
			}
			requests[fmt.Sprint(old, " ", size)] = body + "\n" + string(signed)
		}
		for index := int64(0); index < size; index += 1 + size/50 {
			path, err := tlog.ProveRecord(size, index, t)
			if err != nil {
				return err
			}
			proofs[fmt.Sprint(index, " ", size)] = string(torchwood.FormatProof(index, path, signed))
		}
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"checkpoints": checkpoints, "requests": requests, "proofs": proofs,
	})
}
