// Judges of tamper evidence, written with other people's code: Go's note and tlog (golang.org/x/mod/sumdb), torchwood,
// and the proofs and the witness of transparency-dev. Each subcommand prints what it found; a judge that finds
// something wrong says so on stderr and exits with 1.
//
//	judges check -vkey KEY -origin ORIGIN -leaves FILE [-bare] [-cosigner KEY] [-checkpoints FILE] [-bodies DIR] [-proofs DIR]
//	judges make -skey KEY -origin ORIGIN -leaves FILE SIZE...
//	judges verdicts -vkey KEY -origin ORIGIN
//	judges witness -vkey KEY -origin ORIGIN -name NAME PORT
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

var (
	flags   = flag.NewFlagSet("judges", flag.ExitOnError)
	vkey    = flags.String("vkey", "", "the log's verifier key")
	origin  = flags.String("origin", "", "the log's origin")
	cosign  = flags.String("cosigner", "", "the verifier key of a witness that must have cosigned everything")
	leaves  = flags.String("leaves", "", "file of the log's entries, a line each; the line break belongs to the entry")
	bare    = flags.Bool("bare", false, "the line break does not belong to the entry: a journal's lines")
	heads   = flags.String("checkpoints", "", "file of signed checkpoints, one after another")
	bodies  = flags.String("bodies", "", "directory of add-checkpoint requests")
	proofs  = flags.String("proofs", "", "directory of tlog-proofs")
	skey    = flags.String("skey", "", "the log's signer key")
	witness = flags.String("name", "", "the name of the witness")
)

func main() {
	verbs := map[string]func() error{"check": check, "make": makeAll, "verdicts": verdicts, "witness": serveWitness}
	if len(os.Args) < 2 || verbs[os.Args[1]] == nil {
		fail(fmt.Errorf("usage: judges check|make|verdicts|witness [flags]"))
	}
	_ = flags.Parse(os.Args[2:])
	if err := verbs[os.Args[1]](); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// tree is a whole log in memory, hashed by tlog.
type tree struct {
	entries [][]byte
	hashes  []tlog.Hash
}

func (t *tree) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	var found []tlog.Hash
	for _, index := range indexes {
		if index >= int64(len(t.hashes)) {
			return nil, fmt.Errorf("no hash %d", index)
		}
		found = append(found, t.hashes[index])
	}
	return found, nil
}

func readTree() (*tree, error) {
	data, err := os.ReadFile(*leaves)
	if err != nil {
		return nil, err
	}
	t := &tree{}
	for _, line := range bytes.SplitAfter(data, []byte("\n")) {
		if len(line) == 0 {
			continue
		}
		if *bare {
			line = bytes.TrimSuffix(line, []byte("\n"))
		}
		hashes, err := tlog.StoredHashes(int64(len(t.entries)), line, t)
		if err != nil {
			return nil, err
		}
		t.entries, t.hashes = append(t.entries, line), append(t.hashes, hashes...)
	}
	return t, nil
}

// policy asks for a signature by the log, and by the witness where one is named.
func policy() (torchwood.Policy, error) {
	verifier, err := note.NewVerifier(*vkey)
	if err != nil {
		return nil, err
	}
	parts := []torchwood.Policy{torchwood.OriginPolicy(*origin), torchwood.SingleVerifierPolicy(verifier)}
	if *cosign != "" {
		cosigner, err := torchwood.NewCosignatureVerifier(*cosign)
		if err != nil {
			return nil, err
		}
		parts = append(parts, torchwood.SingleVerifierPolicy(cosigner))
	}
	return torchwood.ThresholdPolicy(len(parts), parts...), nil
}
