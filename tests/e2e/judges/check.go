package main

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"filippo.io/torchwood"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/tlog"
)

// check opens every checkpoint, request and proof that it is given, and compares them with the log's entries.
func check() error {
	t, err := readTree()
	if err != nil {
		return err
	}
	known, err := policy()
	if err != nil {
		return err
	}
	checkpoints, err := splitCheckpoints(*heads)
	if err != nil {
		return err
	}
	for _, data := range checkpoints {
		if _, err := checkCheckpoint(t, known, data); err != nil {
			return fmt.Errorf("%w in\n%s", err, data)
		}
	}
	requests, err := each(*bodies, func(data []byte) error { return checkBody(t, known, data) })
	if err != nil {
		return err
	}
	proved, err := each(*proofs, func(data []byte) error { return checkProof(t, known, data) })
	if err != nil {
		return err
	}
	fmt.Printf("checkpoints %d requests %d proofs %d\n", len(checkpoints), requests, proved)
	return nil
}

// splitCheckpoints cuts before every line that follows a signature and is none.
func splitCheckpoints(name string) ([][]byte, error) {
	if name == "" {
		return nil, nil
	}
	data, err := os.ReadFile(name)
	var found [][]byte
	var last []byte
	wasSignature := false
	for _, line := range bytes.SplitAfter(data, []byte("\n")) {
		isSignature := bytes.HasPrefix(line, []byte("— "))
		if wasSignature && !isSignature {
			found, last = append(found, last), nil
		}
		last, wasSignature = append(last, line...), isSignature
	}
	if len(last) > 0 {
		return nil, fmt.Errorf("the last checkpoint is torn: %q", last)
	}
	return found, err
}

func each(directory string, check func([]byte) error) (int, error) {
	names, err := filepath.Glob(filepath.Join(directory, "*"))
	if directory == "" || err != nil {
		return 0, err
	}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			return 0, err
		}
		if err := check(data); err != nil {
			return 0, fmt.Errorf("%s: %w", filepath.Base(name), err)
		}
	}
	return len(names), nil
}

func checkCheckpoint(t *tree, known torchwood.Policy, data []byte) (torchwood.Checkpoint, error) {
	checkpoint, _, err := torchwood.VerifyCheckpoint(data, known)
	if err != nil {
		return checkpoint, err
	}
	root, err := tlog.TreeHash(checkpoint.N, t)
	if err != nil {
		return checkpoint, err
	}
	if root != checkpoint.Hash {
		return checkpoint, fmt.Errorf("the tree of %d entries has the root %s, not %s", checkpoint.N, root, checkpoint.Hash)
	}
	return checkpoint, nil
}

// checkBody checks the consistency proof of an add-checkpoint request twice: with tlog and with transparency-dev/merkle.
func checkBody(t *tree, known torchwood.Policy, data []byte) error {
	head, data, _ := bytes.Cut(data, []byte("\n\n"))
	lines := strings.Split(string(head), "\n")
	old, err := strconv.ParseInt(strings.TrimPrefix(lines[0], "old "), 10, 64)
	if err != nil {
		return err
	}
	var path tlog.TreeProof
	var hashes [][]byte
	for _, line := range lines[1:] {
		hash, err := tlog.ParseHash(line)
		if err != nil {
			return err
		}
		path, hashes = append(path, hash), append(hashes, hash[:])
	}
	checkpoint, err := checkCheckpoint(t, known, data)
	if err != nil {
		return err
	}
	if old == 0 {
		if len(path) != 0 {
			return fmt.Errorf("a proof from an empty tree")
		}
		return nil
	}
	oldRoot, err := tlog.TreeHash(old, t)
	if err != nil {
		return err
	}
	if err := tlog.CheckTree(path, checkpoint.N, checkpoint.Hash, old, oldRoot); err != nil {
		return err
	}
	return proof.VerifyConsistency(
		rfc6962.DefaultHasher, uint64(old), uint64(checkpoint.N), hashes, oldRoot[:], checkpoint.Hash[:])
}

// checkProof checks a tlog-proof with torchwood, for its own entry and for another, and its path with merkle as well.
func checkProof(t *tree, known torchwood.Policy, data []byte) error {
	var index int64 = -1
	var hashes [][]byte
	for _, line := range strings.Split(strings.SplitN(string(data), "\n\n", 2)[0], "\n") {
		if number, found := strings.CutPrefix(line, "index "); found {
			index, _ = strconv.ParseInt(number, 10, 64)
		} else if index >= 0 {
			hash, err := base64.StdEncoding.DecodeString(line)
			if err != nil {
				return err
			}
			hashes = append(hashes, hash)
		}
	}
	if index < 0 || index >= int64(len(t.entries)) {
		return fmt.Errorf("no entry %d", index)
	}
	leaf := tlog.RecordHash(t.entries[index])
	if err := torchwood.VerifyProof(known, leaf, data); err != nil {
		return err
	}
	if err := torchwood.VerifyProof(known, tlog.RecordHash([]byte("another")), data); err == nil {
		return fmt.Errorf("proves anything")
	}
	_, rest, _ := bytes.Cut(data, []byte("\n\n"))
	checkpoint, err := checkCheckpoint(t, known, rest)
	if err != nil {
		return err
	}
	return proof.VerifyInclusion(
		rfc6962.DefaultHasher, uint64(index), uint64(checkpoint.N), leaf[:], hashes, checkpoint.Hash[:])
}
