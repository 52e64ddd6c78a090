package sign

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// AgentVariable is the environment variable that names the socket of a person's
// SSH agent.
const AgentVariable = "SSH_AUTH_SOCK"

// AgentTimeout is how long a request to an agent may take if nothing else is
// said: long enough for a person to confirm it or to touch a token.
const AgentTimeout = time.Minute

// MaxAgentAnswer is how many bytes an agent may answer to one request: about a
// thousand keys.
const MaxAgentAnswer = 256 << 10

// Agent is a person's SSH agent. An agent signs whatever bytes it is given, and
// the bytes of an intent are none that SSH signs: they begin with the length of
// [intent.Label], which is no length of a session id, and not with "SSHSIG". So a
// login can never be taken for an intent, nor an intent for a login. But whoever
// reaches the socket, as root does on a machine to which it is forwarded, can have
// intents signed: keys for intents are added with `ssh-add -c`, and such an agent
// is not forwarded.
//
// The agent is not trusted: its signature is verified under the key that was
// asked for. Windows' own agent has no socket and is not supported.
type Agent struct {
	Socket  string        // path of its unix socket, what [AgentVariable] holds
	Timeout time.Duration // of one request; 0 is [AgentTimeout]
}

// AgentKey is a key that an agent has.
type AgentKey struct {
	Fingerprint string // as `ssh-add -l` shows it: SHA256:...
	Comment     string // what the person called it; any text
	Format      string // what SSH calls its algorithm; any text
	Public      intent.PublicKey
	Unusable    string // why it cannot sign intents; empty: it can

	key ssh.PublicKey
}

// Keys returns the keys that the agent has, also those that cannot sign intents.
func (a Agent) Keys(ctx context.Context) ([]AgentKey, error) {
	var keys []AgentKey
	err := a.ask(ctx, func(c agent.Agent) error {
		listed, err := c.List()
		if err != nil {
			return err
		}
		for _, k := range listed {
			keys = append(keys, agentKey(k))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return keys, nil
}

// Key returns the key of that name as a Signer: its fingerprint (SHA256:...), its
// key id (64 hex digits), or its comment. An empty name is the one key that can
// sign intents. Each signature is one request to the agent.
func (a Agent) Key(ctx context.Context, name string) (Signer, error) {
	keys, err := a.Keys(ctx)
	if err != nil {
		return nil, err
	}
	var found []AgentKey
	var reasons []string
	for _, k := range keys {
		switch {
		case !k.is(name):
		case k.Unusable != "":
			reasons = append(reasons, k.Unusable)
		case !slices.ContainsFunc(found, func(f AgentKey) bool { return f.Public == k.Public }):
			found = append(found, k)
		}
	}
	switch {
	case len(found) == 1:
		return a.signer(found[0]), nil
	case len(found) > 1:
		return nil, errs.New(errs.InvalidArgument, fmt.Sprintf("%d keys of the SSH agent fit", len(found)),
			errs.Hint("name one by its fingerprint, as ssh-add -l shows it"))
	case len(reasons) > 0:
		slices.Sort(reasons)
		return nil, errs.New(errs.InvalidArgument, "the SSH agent's key cannot sign intents: "+strings.Join(slices.Compact(reasons), "; "),
			errs.Hint("use an Ed25519 or ECDSA P-256 key: ssh-keygen -t ed25519, then ssh-add -c"))
	}
	return nil, errs.New(errs.NotFound, "the SSH agent has no such key", errs.Hint("ssh-add -l shows what it has; ssh-add -c FILE adds one; ssh-add -X unlocks it"))
}

// is reports whether the person can mean k by name.
func (k AgentKey) is(name string) bool {
	if strings.HasPrefix(name, "SHA256:") { // what a comment says must not hide a key
		return name == k.Fingerprint
	}
	return name == "" || name == k.Comment || !k.Public.IsZero() && name == k.Public.ID().String()
}

// agentKey makes out what the agent listed.
func agentKey(listed *agent.Key) AgentKey {
	k := AgentKey{Comment: listed.Comment, Format: listed.Format}
	pub, err := ssh.ParsePublicKey(listed.Blob)
	if err != nil {
		k.Unusable = "it is of an algorithm that is not known, or malformed"
		return k
	}
	k.Fingerprint, k.Format, k.key = ssh.FingerprintSHA256(pub), pub.Type(), pub
	if cert, ok := pub.(*ssh.Certificate); ok {
		k.Fingerprint = ssh.FingerprintSHA256(cert.Key) // as ssh-add shows it
		k.Unusable = "it is a certificate, which a registry of keys does not know; use its plain key"
		return k
	}
	switch pub.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256:
	case ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256:
		k.Unusable = "it is a FIDO key, which signs its authenticator's data and not the intent"
		return k
	case ssh.KeyAlgoRSA:
		k.Unusable = "it is an RSA key; " + errAlgorithm.Error()
		return k
	default:
		k.Unusable = errAlgorithm.Error()
		return k
	}
	if c, ok := pub.(ssh.CryptoPublicKey); ok {
		switch raw := c.CryptoPublicKey().(type) {
		case ed25519.PublicKey, *ecdsa.PublicKey:
			if k.Public, err = PublicKey(raw); err == nil {
				return k
			}
			k.Unusable = err.Error()
			return k
		}
	}
	k.Unusable = errAlgorithm.Error()
	return k
}

func (a Agent) signer(k AgentKey) Signer {
	return signer{pub: k.Public, sign: func(ctx context.Context, in intent.Intent) (intent.Signature, error) {
		message, err := in.Message()
		if err != nil {
			return intent.Signature{}, fmt.Errorf("encode intent: %w", err)
		}
		var got *ssh.Signature
		if err := a.ask(ctx, func(c agent.Agent) error { got, err = c.Sign(k.key, message); return err }); err != nil {
			return intent.Signature{}, err
		}
		sig, err := fromSSH(k.Public.Alg(), got)
		if err != nil || !k.Public.Verify(message, sig) { // I1
			return intent.Signature{}, errs.New(errs.InvalidConfig, "what the SSH agent answered is not the signature of its key over the intent",
				errs.Hint("do not use this agent before you know why; see that "+AgentVariable+" names your own"), errs.Cause(err))
		}
		return intent.Signature{Key: k.Public.ID(), Sig: sig}, nil
	}}
}

var errSSHSignature = errors.New("signature is not of the key's algorithm, or malformed")

// fromSSH makes our form of a signature of SSH's.
func fromSSH(alg intent.Alg, s *ssh.Signature) ([]byte, error) {
	switch {
	case s == nil || len(s.Rest) != 0:
	case alg == intent.AlgEd25519 && s.Format == ssh.KeyAlgoED25519 && len(s.Blob) == ed25519.SignatureSize:
		return s.Blob, nil
	case alg == intent.AlgECDSAP256SHA256 && s.Format == ssh.KeyAlgoECDSA256:
		var rs struct{ R, S *big.Int }
		if err := ssh.Unmarshal(s.Blob, &rs); err != nil {
			return nil, errSSHSignature
		}
		return asn1.Marshal(rs)
	}
	return nil, errSSHSignature
}

// duplex is a connection that the agent's client cannot close. Given one that it
// can, it starts a goroutine that nobody waits for.
type duplex struct {
	io.Reader
	io.Writer
}

// ask makes one connection to the agent and lets f talk to it.
func (a Agent) ask(ctx context.Context, f func(agent.Agent) error) error {
	if a.Socket == "" {
		return errs.New(errs.InvalidConfig, "no SSH agent is named", errs.Hint("set "+AgentVariable+", or name a key file"))
	}
	timeout := cmp.Or(a.Timeout, AgentTimeout)
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(limited, "unix", a.Socket)
	if err == nil {
		stop := context.AfterFunc(limited, func() { _ = conn.Close() }) // ends the reads of f
		err = f(agent.NewClient(duplex{io.LimitReader(conn, MaxAgentAnswer), conn}))
		if stop() {
			_ = conn.Close() // Nothing is in flight any more.
		}
	} else if limited.Err() == nil {
		return errs.New(errs.Unavailable, "the SSH agent cannot be reached: "+err.Error(), errs.Hint("see that an agent runs and "+AgentVariable+" names its socket"), errs.Cause(err))
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("ask the SSH agent: %w", ctx.Err())
	case limited.Err() != nil:
		return errs.New(errs.DeadlineExceeded, fmt.Sprintf("the SSH agent did not answer in %s", timeout), errs.Hint("confirm the request if it asks for that, or restart it"))
	}
	// What it said may be anything, and is not shown.
	return errs.New(errs.Unavailable, "the SSH agent did not do what it was asked", errs.Cause(err),
		errs.Hint("unlock it with ssh-add -X, confirm the request if it asks for that, and see that "+AgentVariable+" names your agent"))
}
