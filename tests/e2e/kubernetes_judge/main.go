// Kubernetes' own code as the judge of policies, Events, patches and reviews. Reads a line of JSON from standard input
// for each question and writes a line for its answer; "refused" in an answer is the reason why there is no other.
//
//	kubernetes-judge policy   a policy file and attributes: as it is loaded, and what it decides
//	kubernetes-judge yaml     a file: as JSON, as sigs.k8s.io/yaml makes it
//	kubernetes-judge event    an Event: decoded strictly, and written by the API server's log backend
//	kubernetes-judge patch    an object and a JSON Patch: the patched object
//	kubernetes-judge review   an object and what is done to it: the AdmissionReview, as the API server sends it
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"

	"k8s.io/klog/v2"
)

// judge returns the answer to a question, one line without its end, or why there is none.
type judge func(question []byte) ([]byte, error)

func main() {
	judges := map[string]func() (judge, error){
		"policy": policyJudge,
		"yaml":   yamlJudge,
		"event":  eventJudge,
		"patch":  patchJudge,
		"review": reviewJudge,
	}
	if len(os.Args) != 2 || judges[os.Args[1]] == nil {
		fail(fmt.Errorf("usage: kubernetes-judge policy|yaml|event|patch|review"))
	}
	silenceLogs()
	ask, err := judges[os.Args[1]]()
	if err != nil {
		fail(err)
	}
	if err := answerAll(ask); err != nil {
		fail(err)
	}
}

func answerAll(ask judge) error {
	questions, answers := bufio.NewReader(os.Stdin), bufio.NewWriter(os.Stdout)
	for {
		question, err := questions.ReadBytes('\n')
		if len(question) > 0 {
			if err := writeLine(answers, ask, question); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return answers.Flush()
		}
		if err != nil {
			return err
		}
		// Whoever asks one question at a time waits for its answer.
		if questions.Buffered() == 0 {
			if err := answers.Flush(); err != nil {
				return err
			}
		}
	}
}

func writeLine(answers *bufio.Writer, ask judge, question []byte) error {
	answer, err := ask(question)
	if err != nil {
		answer, err = json.Marshal(map[string]string{"refused": err.Error()})
		if err != nil {
			return err
		}
	}
	if bytes.ContainsRune(answer, '\n') {
		return fmt.Errorf("an answer of several lines: %q", answer)
	}
	_, err = answers.Write(append(answer, '\n'))
	return err
}

// What the API server would log of a policy is in the answer.
func silenceLogs() {
	flags := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(flags)
	_ = flags.Set("logtostderr", "false")
	klog.SetOutput(io.Discard)
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
