//go:build cgo && unix && !nopkcs11

package main

import (
	"encoding/json"
	"errors"
	"io"
	"sync"

	"github.com/openkcm/krypton-cluster/keystore/pkcs11/wire"
)

// answer is what a call gives back. The payload stands apart: it may be secret,
// and who sends it wipes it.
type answer = wire.Answer

// job is one request for a worker; its frame is the worker's to wipe.
type job struct {
	req     wire.Request
	payload []byte
	frame   []byte
}

// serve answers the node until its end of conn closes. It returns without
// waiting for calls that are in the C library: the process ends with it.
func serve(conn io.ReadWriter) error {
	out := &sender{w: conn}
	frame, err := wire.ReadFrame(conn)
	if err != nil {
		return err
	}
	req, payload, err := wire.DecodeRequest(frame)
	if err != nil || req.Op != wire.OpHello {
		return wire.ErrMalformed
	}
	hello, err := wire.DecodeHello(payload)
	if err != nil {
		return out.send(answer{Call: req.Call, Status: wire.StatusSetup}, []byte(err.Error()))
	}
	tok, fault := openToken(hello)
	if fault != nil {
		return out.send(answer{Call: req.Call, Status: wire.StatusSetup, Stage: fault.stage, CKR: fault.ckr}, []byte(fault.text))
	}
	text, err := json.Marshal(tok.info)
	if err != nil {
		return err
	}
	if err := out.send(answer{Call: req.Call, Status: wire.StatusOK}, text); err != nil {
		return err
	}
	jobs := make(chan job)
	for range hello.Workers {
		go func() {
			w := &worker{token: tok}
			for j := range jobs {
				a, payload := w.do(j.req, j.payload)
				a.Call = j.req.Call
				clear(j.frame)
				// The reader sees a connection that does not take answers end.
				_ = out.send(a, payload)
			}
		}()
	}
	for {
		frame, err := wire.ReadFrame(conn)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		req, payload, err := wire.DecodeRequest(frame)
		if err != nil {
			clear(frame)
			return err
		}
		jobs <- job{req, payload, frame}
	}
}

// sender writes whole frames and wipes them, and the payloads that went into
// them. Who has an answer knows that the frames before it are wiped.
type sender struct {
	mu sync.Mutex
	w  io.Writer
}

func (s *sender) send(a answer, payload []byte) error {
	frame, room, err := a.Frame(len(payload))
	if err != nil {
		// A token that answers with more than a frame holds.
		if frame, _, err = (answer{Call: a.Call, Status: wire.StatusUnfit, Stage: a.Stage}).Frame(0); err != nil {
			return err
		}
		room = nil
	}
	copy(room, payload)
	clear(payload) // before the node has the answer (I5)
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err = s.w.Write(frame)
	clear(frame)
	return err
}
