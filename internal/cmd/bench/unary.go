//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
)

// connections is how many connections many callers share. One would measure the
// one goroutine that writes to it, and leave the server idle.
const connections = 4

// many is how many callers keep all cores busy: the ratio is then that of all
// processor time per operation, the caller's own included.
const many = 32

// deadline of a call.
const deadline = 10 * time.Second

// caller makes one call of an operation.
type caller func(ctx context.Context, c kryptonv1.CryptoClient) error

// operation is a data operation that both the node and the echo answer.
type operation struct {
	name string
	size int
	// prepare makes what is called again and again; c is the node.
	prepare func(ctx context.Context, c kryptonv1.CryptoClient) (caller, error)
}

func encrypt(size int) operation {
	return operation{"encrypt", size, func(context.Context, kryptonv1.CryptoClient) (caller, error) {
		plain := make([]byte, size)
		return func(ctx context.Context, c kryptonv1.CryptoClient) error {
			// A request of its own per call: a caller that shares one shares locks.
			out, err := c.Encrypt(ctx, &kryptonv1.EncryptRequest{Service: service, Plaintext: plain})
			return answered(err, len(out.GetCiphertext()) > size)
		}, nil
	}}
}

func decrypt(size int) operation {
	return operation{"decrypt", size, func(ctx context.Context, c kryptonv1.CryptoClient) (caller, error) {
		sealed, err := c.Encrypt(ctx, &kryptonv1.EncryptRequest{Service: service, Plaintext: make([]byte, size)})
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context, c kryptonv1.CryptoClient) error {
			out, err := c.Decrypt(ctx, &kryptonv1.DecryptRequest{Service: service, Ciphertext: sealed.GetCiphertext()})
			return answered(err, len(out.GetPlaintext()) == size)
		}, nil
	}}
}

func generate() operation {
	return operation{"generate data key", keySize, func(context.Context, kryptonv1.CryptoClient) (caller, error) {
		return func(ctx context.Context, c kryptonv1.CryptoClient) error {
			out, err := c.GenerateDataKey(ctx, &kryptonv1.GenerateDataKeyRequest{Service: service})
			return answered(err, len(out.GetPlaintext()) == keySize)
		}, nil
	}}
}

func unwrap() operation {
	return operation{"unwrap data key", keySize, func(ctx context.Context, c kryptonv1.CryptoClient) (caller, error) {
		made, err := c.GenerateDataKey(ctx, &kryptonv1.GenerateDataKeyRequest{Service: service})
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context, c kryptonv1.CryptoClient) error {
			out, err := c.UnwrapDataKey(ctx, &kryptonv1.UnwrapDataKeyRequest{Service: service, Wrapped: made.GetWrapped()})
			return answered(err, len(out.GetPlaintext()) == keySize)
		}, nil
	}}
}

var errWrongAnswer = errors.New("the answer is not what was asked for")

// answered holds a call to what it promised (I1).
func answered(err error, ok bool) error {
	if err == nil && !ok {
		return errWrongAnswer
	}
	return err
}

func unaryPairs() []pair {
	const whyMany = "all cores are busy, so this is what a node costs beyond gRPC, TLS and the caller; gate, record, headers, key choice and cipher have to fit into the rest"
	const whyOne = "one caller waits for each answer, and the record is with the operating system before it: one more system call and two changes of goroutine"
	var all []pair
	for _, op := range []operation{encrypt(256), decrypt(256), generate(), unwrap(), encrypt(4 << 10)} {
		all = append(all, unaryPair(op, many, 0.70, whyMany), unaryPair(op, 1, 0.55, whyOne))
	}
	return all
}

func unaryPair(op operation, callers int, goal float64, why string) pair {
	name := fmt.Sprintf("unary %s %d B, %d callers", op.name, op.size, callers)
	if callers == 1 {
		name = fmt.Sprintf("unary %s %d B, 1 caller", op.name, op.size)
	}
	return pair{
		name: name, baseline: "grpc-go echo, same messages and certificates", goal: goal, why: why, slice: 100 * time.Millisecond,
		open: func(ctx context.Context, e *env) (match, error) {
			nd, err := e.node(ctx)
			if err != nil {
				return match{}, err
			}
			ec, err := e.echoes(ctx)
			if err != nil {
				return match{}, err
			}
			var conns pool
			subject, call, err := conns.to(ctx, e, nd.Addresses().GRPC, op, nil)
			if err != nil {
				return match{}, errors.Join(err, conns.close())
			}
			base, _, err := conns.to(ctx, e, ec.addrs.GRPC, op, call)
			if err != nil {
				return match{}, errors.Join(err, conns.close())
			}
			return match{
				subject:  side{crowd(callers, subject), scrape(nd.Addresses().Ops)},
				baseline: side{crowd(callers, base), scrape(ec.addrs.Ops)},
				close:    conns.close,
			}, nil
		},
	}
}

// pool is the connections of a pair.
type pool []*grpc.ClientConn

// to connects to addr and returns what a caller there does; call nil: prepare it.
func (p *pool) to(ctx context.Context, e *env, addr string, op operation, call caller) (func(context.Context, int) error, caller, error) {
	var clients [connections]kryptonv1.CryptoClient
	for i := range clients {
		cc, err := e.dial(addr)
		if err != nil {
			return nil, nil, err
		}
		*p = append(*p, cc)
		clients[i] = kryptonv1.NewCryptoClient(cc)
	}
	if call == nil {
		var err error
		if call, err = op.prepare(ctx, clients[0]); err != nil {
			return nil, nil, err
		}
	}
	return func(ctx context.Context, n int) error {
		ctx, cancel := context.WithTimeout(ctx, deadline) // as every caller should, and the SDK does
		defer cancel()
		return call(ctx, clients[n%connections])
	}, call, nil
}

func (p *pool) close() error {
	var all []error
	for _, cc := range *p {
		all = append(all, cc.Close())
	}
	return errors.Join(all...)
}
