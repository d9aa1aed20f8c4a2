package main

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"strings"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// verdicts reads lines "KIND BASE64" and answers each with "accepted", "malformed", or "unverified" where the format is
// right and the signatures or the proof are not. A proof is asked about the entry "leaf".
func verdicts() error {
	verifier, err := note.NewVerifier(*vkey)
	if err != nil {
		return err
	}
	known, err := policy()
	if err != nil {
		return err
	}
	judges := map[string]func([]byte) error{
		"note": func(data []byte) error {
			_, err := note.Open(data, note.VerifierList(verifier))
			return err
		},
		"checkpoint": func(data []byte) error {
			_, _, err := torchwood.VerifyCheckpoint(data, known)
			return err
		},
		"proof": func(data []byte) error {
			return torchwood.VerifyProof(known, tlog.RecordHash([]byte("leaf")), data)
		},
		"vkey": func(data []byte) error {
			_, err := note.NewVerifier(string(data))
			return err
		},
	}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		kind, encoded, _ := strings.Cut(lines.Text(), " ")
		data, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil || judges[kind] == nil {
			return fmt.Errorf("not KIND BASE64: %q", lines.Text())
		}
		fmt.Println(verdict(judges[kind](data)))
	}
	return lines.Err()
}

func verdict(err error) string {
	var unverified *note.UnverifiedNoteError
	var invalid *note.InvalidSignatureError
	var record *torchwood.VerifyRecordError
	switch {
	case err == nil:
		return "accepted"
	case errors.As(err, &unverified), errors.As(err, &invalid), errors.As(err, &record):
		return "unverified"
	}
	return "malformed"
}
