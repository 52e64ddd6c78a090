//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/client"
)

// doorSize is the plaintext that is encrypted through the other doors.
const doorSize = 256

func doorPairs() []pair {
	const slice = 100 * time.Millisecond
	return []pair{
		{
			name: "SDK encrypt 256 B, 32 callers", baseline: "a plain gRPC client of the same node", goal: 0.55, slice: slice, open: throughSDK,
			why: "choice of the node, deadline of the attempt, correlation id, retry budget, wiped buffers",
		},
		{
			name: "HTTP/JSON encrypt 256 B, 32 callers", baseline: "HTTPS echo with encoding/json", goal: 0.30, slice: slice, open: throughREST,
			why: "the gateway decodes and encodes JSON by reflection over the messages, and everything behind it is as over gRPC",
		},
	}
}

func throughSDK(ctx context.Context, e *env) (match, error) {
	nd, err := e.node(ctx)
	if err != nil {
		return match{}, err
	}
	// As many connections as the plain client has: one client is one connection
	// per node.
	var clients [connections]*client.Client
	var conns pool
	shut := func() error {
		all := []error{conns.close()}
		for _, c := range clients {
			if c != nil {
				all = append(all, c.Close())
			}
		}
		return errors.Join(all...)
	}
	for i := range clients {
		if clients[i], err = e.cluster.NodeClient(ctx, auth.RoleWorkload, nd); err != nil {
			return match{}, errors.Join(err, shut())
		}
	}
	base, _, err := conns.to(ctx, e, nd.Addresses().GRPC, encrypt(doorSize), nil)
	if err != nil {
		return match{}, errors.Join(err, shut())
	}
	plain := make([]byte, doorSize)
	return match{
		subject: side{crowd(many, func(ctx context.Context, n int) error {
			ctx, cancel := context.WithTimeout(ctx, deadline)
			defer cancel()
			out, err := clients[n%connections].Encrypt(ctx, client.Scope{Service: service}, plain)
			return answered(err, len(out) > doorSize)
		}), nil},
		baseline: side{crowd(many, base), nil},
		close:    shut,
	}, nil
}

func throughREST(ctx context.Context, e *env) (match, error) {
	nd, err := e.node(ctx)
	if err != nil {
		return match{}, err
	}
	ec, err := e.echoes(ctx)
	if err != nil {
		return match{}, err
	}
	cfg, err := e.callerTLS()
	if err != nil {
		return match{}, err
	}
	// HTTP/1.1 with a connection per caller: what most callers of an HTTP API do.
	transport := &http.Transport{TLSClientConfig: cfg, MaxIdleConnsPerHost: many}
	hc := &http.Client{Transport: transport, Timeout: deadline}
	body, err := json.Marshal(jsonRequest{Zeros: make([]byte, doorSize)})
	if err != nil {
		return match{}, err
	}
	post := func(addr string) loop {
		url := "https://" + addr + "/v1/" + service + ":encrypt"
		return crowd(many, func(ctx context.Context, _ int) error { return postJSON(ctx, hc, url, body) })
	}
	return match{
		subject:  side{post(nd.Addresses().REST), scrape(nd.Addresses().Ops)},
		baseline: side{post(ec.addrs.REST), scrape(ec.addrs.Ops)},
		close: func() error {
			transport.CloseIdleConnections()
			return nil
		},
	}, nil
}

func postJSON(ctx context.Context, hc *http.Client, url string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := hc.Do(req)
	if err != nil {
		return err
	}
	raw, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("HTTP %d: %s", resp.StatusCode, raw)
	}
	var out jsonAnswer
	err = json.Unmarshal(raw, &out)
	return answered(err, len(out.Ciphertext) > doorSize)
}
