package main

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"net"
	"net/http"
	"strings"

	"filippo.io/torchwood"
	"github.com/transparency-dev/witness/persistence/inmemory"
	transparencydev "github.com/transparency-dev/witness/witness"
	"golang.org/x/mod/sumdb/note"
)

// serveWitness runs the witness of transparency-dev on loopback, with a key made for the run. It takes the origin, and
// all below it: a journal's directories. It prints its verifier
// key ("cosigner KEY"), then "listening PORT" (PORT 0: any).
func serveWitness() error {
	verifier, err := note.NewVerifier(*vkey)
	if err != nil {
		return err
	}
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return err
	}
	signer, err := torchwood.NewCosignatureSigner(*witness, private)
	if err != nil {
		return err
	}
	running, err := transparencydev.New(context.Background(), transparencydev.Opts{
		Persistence: inmemory.New(),
		Signers:     []note.Signer{signer},
		VerifierForLog: func(_ context.Context, of string) (note.Verifier, bool, error) {
			return verifier, of == *origin || strings.HasPrefix(of, *origin+"/"), nil
		},
	})
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:"+flags.Arg(0))
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /add-checkpoint", transparencydev.NewHTTPHandler(running).AddCheckpoint)
	fmt.Println("cosigner", signer.Verifier())
	fmt.Println("listening", listener.Addr().(*net.TCPAddr).Port)
	return http.Serve(listener, mux)
}
