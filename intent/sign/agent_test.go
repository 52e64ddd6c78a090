package sign_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/intent/sign"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// socketPath returns a path that is short enough for a unix socket.
func socketPath(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent") //nolint:usetesting // The path of a socket must be shorter than that of t.TempDir.
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

// listen serves every connection to a new socket until the test ends.
func listen(t testing.TB, serve func(net.Conn)) (socket string) {
	t.Helper()
	socket = socketPath(t)
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
			all.Go(func() { defer conn.Close(); serve(conn) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	return socket
}

// serving returns the socket of the library's server over a.
func serving(t testing.TB, a agent.Agent) (socket string) {
	t.Helper()
	return listen(t, func(c net.Conn) { _ = agent.ServeAgent(a, c) })
}

// openSSHAgent starts the real ssh-agent, if there is one on this machine.
func openSSHAgent(t testing.TB) (socket string, ok bool) {
	t.Helper()
	path, err := exec.LookPath("ssh-agent")
	if err != nil {
		t.Log("ssh-agent is not installed")
		return "", false
	}
	socket = socketPath(t)
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, path, "-s", "-D", "-a", socket)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n') // it listens when it says where
	if err != nil || !strings.Contains(line, socket) {
		t.Fatalf("ssh-agent said %q, %v", line, err)
	}
	return socket, true
}

// add puts a key into the agent at socket.
func add(t testing.TB, socket string, key agent.AddedKey) {
	t.Helper()
	talk(t, socket, func(a agent.ExtendedAgent) error { return a.Add(key) })
}

func talk(t testing.TB, socket string, f func(agent.ExtendedAgent) error) {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := f(agent.NewClient(struct {
		io.Reader
		io.Writer
	}{conn, conn})); err != nil {
		t.Fatal(err)
	}
}

func sshPublic(t testing.TB, key crypto.Signer) ssh.PublicKey {
	t.Helper()
	pub, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return pub
}

func certificate(t testing.TB, of, ca crypto.Signer) *ssh.Certificate {
	t.Helper()
	c := &ssh.Certificate{Key: sshPublic(t, of), CertType: ssh.UserCert, ValidBefore: ssh.CertTimeInfinity, KeyId: "alice", ValidPrincipals: []string{"alice"}}
	by, err := ssh.NewSignerFromSigner(ca)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SignCert(rand.Reader, by); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestAgents runs against the library's server and against OpenSSH's.
func TestAgents(t *testing.T) {
	t.Parallel()
	agents := map[string]string{"library": serving(t, agent.NewKeyring())}
	if socket, ok := openSSHAgent(t); ok {
		agents["openssh"] = socket
	}
	for name, socket := range agents {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testAgent(t, sign.Agent{Socket: socket})
		})
	}
}

func testAgent(t *testing.T, a sign.Agent) {
	t.Helper()
	ctx := t.Context()
	if _, err := a.Key(ctx, ""); !errs.Is(err, errs.NotFound) {
		t.Errorf("an agent without keys: %v", err)
	}
	ed, ec, twin, certified := newEd25519(t), newECDSA(t, elliptic.P256()), newEd25519(t), newEd25519(t)
	add(t, a.Socket, agent.AddedKey{PrivateKey: ed, Comment: "alice"})
	if s, err := a.Key(ctx, ""); err != nil || signsAs(s, ed.Public()) != nil {
		t.Errorf("the only key needs a name: %v", err)
	}
	add(t, a.Socket, agent.AddedKey{PrivateKey: ec, Comment: "bob\n\x1b[2K"})
	add(t, a.Socket, agent.AddedKey{PrivateKey: newRSA(t), Comment: "old"})
	add(t, a.Socket, agent.AddedKey{PrivateKey: newECDSA(t, elliptic.P384()), Comment: "longer"})
	add(t, a.Socket, agent.AddedKey{PrivateKey: twin, Comment: "twins"})
	add(t, a.Socket, agent.AddedKey{PrivateKey: newEd25519(t), Comment: "twins"})
	// What ssh-add does with a key that has a certificate beside it.
	add(t, a.Socket, agent.AddedKey{PrivateKey: certified, Comment: "both"})
	add(t, a.Socket, agent.AddedKey{PrivateKey: certified, Comment: "both", Certificate: certificate(t, certified, ed)})
	alone := newEd25519(t)
	add(t, a.Socket, agent.AddedKey{PrivateKey: alone, Comment: "certificate alone", Certificate: certificate(t, alone, ed)})
	add(t, a.Socket, agent.AddedKey{PrivateKey: newEd25519(t), Comment: ssh.FingerprintSHA256(sshPublic(t, ed))}) // to hide alice

	edID, err := sign.PublicKey(ed.Public())
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{
		"alice": ed, edID.ID().String(): ed, ssh.FingerprintSHA256(sshPublic(t, ed)): ed,
		"bob\n\x1b[2K": ec, ssh.FingerprintSHA256(sshPublic(t, ec)): ec, ssh.FingerprintSHA256(sshPublic(t, twin)): twin, "both": certified,
	} {
		s, err := a.Key(ctx, name)
		if err != nil {
			t.Errorf("%q: %v", name, err)
			continue
		}
		for range 3 { // ECDSA differs each time
			if err := signsAs(s, key.Public()); err != nil {
				t.Errorf("%q: %v", name, err)
			}
		}
	}
	for name, want := range map[string]struct {
		code errs.Code
		text string
	}{
		"":                  {errs.InvalidArgument, "6 keys of the SSH agent fit"},
		"twins":             {errs.InvalidArgument, "2 keys of the SSH agent fit"},
		"old":               {errs.InvalidArgument, "it is an RSA key"},
		"longer":            {errs.InvalidArgument, "personal keys are Ed25519 or ECDSA P-256"},
		"certificate alone": {errs.InvalidArgument, "it is a certificate"},
		"carol":             {errs.NotFound, "no such key"},
		"SHA256:":           {errs.NotFound, "no such key"},
	} {
		if s, err := a.Key(ctx, name); s != nil || !errs.Is(err, want.code) || !strings.Contains(err.Error(), want.text) || errs.From(err).Hint == "" {
			t.Errorf("%q: %v, want %q", name, err, want.text)
		}
	}
	keys, err := a.Keys(ctx)
	if err != nil || len(keys) != 10 {
		t.Fatalf("%d keys, %v", len(keys), err)
	}
	for _, k := range keys {
		if (k.Unusable == "") == k.Public.IsZero() || !strings.HasPrefix(k.Fingerprint, "SHA256:") {
			t.Errorf("%+v is neither usable nor not", k)
		}
	}

	s, err := a.Key(ctx, "alice")
	if err != nil {
		t.Fatal(err)
	}
	talk(t, a.Socket, func(c agent.ExtendedAgent) error { return c.Lock([]byte("phrase")) })
	if _, err := s.Sign(ctx, sample()); !errs.Is(err, errs.Unavailable) || errs.From(err).Hint == "" {
		t.Errorf("a locked agent signs: %v", err)
	}
	talk(t, a.Socket, func(c agent.ExtendedAgent) error { return c.Unlock([]byte("phrase")) })
	if err := signsAs(s, ed.Public()); err != nil {
		t.Errorf("after the lock: %v", err)
	}
	talk(t, a.Socket, func(c agent.ExtendedAgent) error { return c.RemoveAll() })
	if _, err := s.Sign(ctx, sample()); !errs.Is(err, errs.Unavailable) {
		t.Errorf("a key that was removed signs: %v", err)
	}
	if _, err := s.Sign(ctx, intent.Intent{}); err == nil {
		t.Error("it signs what is no intent")
	}
}

// lying is an agent that has keys and answers otherwise than it should.
type lying struct {
	agent.Agent
	list []*agent.Key
	sign func(data []byte) (*ssh.Signature, error)
}

func (l lying) List() ([]*agent.Key, error) {
	if l.list != nil {
		return l.list, nil
	}
	return l.Agent.List()
}

func (l lying) Sign(key ssh.PublicKey, data []byte) (*ssh.Signature, error) {
	if l.sign != nil {
		return l.sign(data)
	}
	return l.Agent.Sign(key, data)
}

func (l lying) SignWithFlags(key ssh.PublicKey, data []byte, _ agent.SignatureFlags) (*ssh.Signature, error) {
	return l.Sign(key, data)
}

func (l lying) Extension(string, []byte) ([]byte, error) { return nil, agent.ErrExtensionUnsupported }

func TestI1_ALyingAgentIsFound(t *testing.T) {
	t.Parallel()
	ed, ec := newEd25519(t), newECDSA(t, elliptic.P256())
	bySSH := func(key crypto.Signer) func([]byte) (*ssh.Signature, error) {
		s, err := ssh.NewSignerFromSigner(key)
		if err != nil {
			t.Fatal(err)
		}
		return func(data []byte) (*ssh.Signature, error) { return s.Sign(rand.Reader, data) }
	}
	change := func(key crypto.Signer, f func(*ssh.Signature)) func([]byte) (*ssh.Signature, error) {
		return func(data []byte) (*ssh.Signature, error) {
			s, err := bySSH(key)(data)
			if err == nil {
				f(s)
			}
			return s, err
		}
	}
	numbers := func(r, s *big.Int) []byte { return ssh.Marshal(struct{ R, S *big.Int }{r, s}) }
	for name, tc := range map[string]struct {
		key  crypto.Signer
		sign func([]byte) (*ssh.Signature, error)
	}{
		"another Ed25519 key":      {ed, bySSH(newEd25519(t))},
		"another P-256 key":        {ec, bySSH(newECDSA(t, elliptic.P256()))},
		"key of another kind":      {ed, bySSH(ec)},
		"a P-384 key":              {ec, bySSH(newECDSA(t, elliptic.P384()))},
		"an RSA key":               {ed, bySSH(newRSA(t))},
		"another message":          {ed, func([]byte) (*ssh.Signature, error) { return bySSH(ed)([]byte("login")) }},
		"another message, P-256":   {ec, func([]byte) (*ssh.Signature, error) { return bySSH(ec)([]byte("login")) }},
		"a bit":                    {ed, change(ed, func(s *ssh.Signature) { s.Blob[7] ^= 1 })},
		"a byte less":              {ed, change(ed, func(s *ssh.Signature) { s.Blob = s.Blob[:63] })},
		"a byte more":              {ed, change(ed, func(s *ssh.Signature) { s.Blob = append(s.Blob, 0) })},
		"nothing":                  {ed, change(ed, func(s *ssh.Signature) { s.Blob = nil })},
		"another format":           {ed, change(ed, func(s *ssh.Signature) { s.Format = ssh.KeyAlgoECDSA256 })},
		"format of a FIDO key":     {ed, change(ed, func(s *ssh.Signature) { s.Format, s.Rest = ssh.KeyAlgoSKED25519, []byte{1, 0, 0, 0, 1} })},
		"something behind":         {ed, change(ed, func(s *ssh.Signature) { s.Rest = []byte{0} })},
		"something behind, P-256":  {ec, change(ec, func(s *ssh.Signature) { s.Rest = []byte{0} })},
		"one number more":          {ec, change(ec, func(s *ssh.Signature) { s.Blob = append(s.Blob, 0, 0, 0, 0) })},
		"zeros":                    {ec, change(ec, func(s *ssh.Signature) { s.Blob = numbers(new(big.Int), new(big.Int)) })},
		"negative":                 {ec, change(ec, func(s *ssh.Signature) { s.Blob = numbers(big.NewInt(-1), big.NewInt(-1)) })},
		"huge":                     {ec, change(ec, func(s *ssh.Signature) { s.Blob = numbers(new(big.Int).Lsh(big.NewInt(1), 4000), big.NewInt(1)) })},
		"garbage for two numbers":  {ec, change(ec, func(s *ssh.Signature) { s.Blob = []byte("garbage") })},
		"numbers of Ed25519 bytes": {ec, change(ec, func(s *ssh.Signature) { s.Format = ssh.KeyAlgoED25519 })},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ring := agent.NewKeyring()
			if err := ring.Add(agent.AddedKey{PrivateKey: tc.key}); err != nil {
				t.Fatal(err)
			}
			s, err := sign.Agent{Socket: serving(t, lying{Agent: ring, sign: tc.sign})}.Key(t.Context(), "")
			if err != nil {
				t.Fatal(err)
			}
			sig, err := s.Sign(t.Context(), sample())
			if err == nil || sig.Sig != nil || sig.Key != (intent.KeyID{}) {
				t.Fatalf("it was believed: %+v", sig)
			}
			if code := errs.Of(err); code != errs.InvalidConfig && code != errs.Unavailable || errs.From(err).Hint == "" {
				t.Errorf("got %v", err)
			}
		})
	}
	// The numbers of a good signature in the other, equally good form: no lie.
	ring := agent.NewKeyring()
	if err := ring.Add(agent.AddedKey{PrivateKey: ec}); err != nil {
		t.Fatal(err)
	}
	mirrored := change(ec, func(s *ssh.Signature) {
		var rs struct{ R, S *big.Int }
		if err := ssh.Unmarshal(s.Blob, &rs); err != nil {
			t.Error(err)
		}
		s.Blob = numbers(rs.R, rs.S.Sub(elliptic.P256().Params().N, rs.S))
	})
	s, err := sign.Agent{Socket: serving(t, lying{Agent: ring, sign: mirrored})}.Key(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := signsAs(s, ec.Public()); err != nil {
		t.Error(err)
	}
}

func TestAgentKeysThatCannotSignIntentsAreRefusedByName(t *testing.T) {
	t.Parallel()
	ed, ec := newEd25519(t), newECDSA(t, elliptic.P256())
	point, err := ec.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	pub, ok := ed.Public().(ed25519.PublicKey)
	if !ok {
		t.Fatal("not an Ed25519 key")
	}
	cert := certificate(t, ed, ec)
	for name, tc := range map[string]struct {
		blob []byte
		want string
	}{
		"FIDO Ed25519": {ssh.Marshal(struct {
			Name        string
			Key         []byte
			Application string
		}{ssh.KeyAlgoSKED25519, pub, "ssh:"}), "it is a FIDO key"},
		"FIDO P-256": {ssh.Marshal(struct {
			Name, Curve string
			Key         []byte
			Application string
		}{ssh.KeyAlgoSKECDSA256, "nistp256", point, "ssh:"}), "it is a FIDO key"},
		"certificate":        {cert.Marshal(), "it is a certificate"},
		"unknown":            {ssh.Marshal(struct{ Name, Key string }{"ssh-new", "key"}), "not known, or malformed"},
		"point off a curve":  {ssh.Marshal(struct{ Name, Curve, Key string }{ssh.KeyAlgoECDSA256, "nistp256", strings.Repeat("\x04", 65)}), "not known, or malformed"},
		"key of small order": {ssh.Marshal(struct{ Name, Key string }{ssh.KeyAlgoED25519, strings.Repeat("\x00", 32)}), "small order"},
		"short key":          {ssh.Marshal(struct{ Name, Key string }{ssh.KeyAlgoED25519, strings.Repeat("\x01", 31)}), "not known, or malformed"},
		"key and a byte":     {append(ssh.Marshal(struct{ Name, Key string }{ssh.KeyAlgoED25519, string(pub)}), 0), "not known, or malformed"},
	} {
		a := sign.Agent{Socket: serving(t, lying{Agent: agent.NewKeyring(), list: []*agent.Key{{Format: "x", Blob: tc.blob, Comment: "mine"}}})}
		s, err := a.Key(t.Context(), "mine")
		if s != nil || !errs.Is(err, errs.InvalidArgument) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
	// ssh-add shows a certificate under the fingerprint of its key.
	a := sign.Agent{Socket: serving(t, lying{Agent: agent.NewKeyring(), list: []*agent.Key{{Blob: cert.Marshal()}}})}
	keys, err := a.Keys(t.Context())
	if err != nil || len(keys) != 1 || keys[0].Fingerprint != ssh.FingerprintSHA256(cert.Key) {
		t.Errorf("certificate is listed as %+v, %v", keys, err)
	}
}

// answering returns an agent that answers every request with raw bytes and hangs up.
func answering(t *testing.T, raw []byte) sign.Agent {
	t.Helper()
	return sign.Agent{Timeout: 20 * time.Second, Socket: listen(t, func(c net.Conn) {
		var length [4]byte
		if _, err := io.ReadFull(c, length[:]); err != nil {
			return
		}
		if _, err := io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint32(length[:]))); err != nil {
			return
		}
		_, _ = c.Write(raw)
	})}
}

func TestGarbageOfAnAgentIsAnError(t *testing.T) {
	t.Parallel()
	message := func(b ...byte) []byte { return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...) }
	key := ssh.Marshal(struct {
		Blob    []byte
		Comment string
	}{sshPublic(t, newEd25519(t)).Marshal(), strings.Repeat("c", 1000)})
	keys := sign.MaxAgentAnswer/len(key) + 1
	for name, raw := range map[string][]byte{
		"more keys than it may": message(append([]byte{12, 0, 0, byte(keys >> 8), byte(keys)}, bytes.Repeat(key, keys)...)...),
		"nothing":               nil,
		"half a length":         {0, 0},
		"empty message":         message(),
		"less than it says":     {0, 0, 1, 0, 12},
		"huge":                  {0xff, 0xff, 0xff, 0xff},
		"16 MiB, endless":       append([]byte{1, 0, 0, 0}, bytes.Repeat([]byte{12}, 2*sign.MaxAgentAnswer)...),
		"failure":               message(5),
		"success":               message(6),
		"unknown type":          message(200, 1, 2, 3),
		"signature":             message(14, 0, 0, 0, 0),
		"a billion keys":        message(12, 0x3f, 0xff, 0xff, 0xff),
		"a key too few":         message(12, 0, 0, 0, 1),
		"a key cut short":       message(12, 0, 0, 0, 1, 0, 0, 0, 9, 1),
		"text":                  []byte("HTTP/1.1 400 Bad Request\r\n\r\n"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			keys, err := answering(t, raw).Keys(t.Context())
			if !errs.Is(err, errs.Unavailable) || keys != nil {
				t.Errorf("%d keys, %v", len(keys), err)
			}
			if err != nil && strings.Contains(err.Error(), "HTTP") {
				t.Errorf("the error shows what the agent said: %v", err)
			}
		})
	}
}

// hanging returns an agent that takes requests and does not answer; asked tells of each.
func hanging(t *testing.T, timeout time.Duration) (a sign.Agent, asked chan struct{}) {
	t.Helper()
	asked = make(chan struct{}, 10)
	return sign.Agent{Timeout: timeout, Socket: listen(t, func(c net.Conn) {
		var b [5]byte
		if _, err := io.ReadFull(c, b[:]); err == nil {
			asked <- struct{}{}
		}
		_, _ = io.Copy(io.Discard, c) // until the other side gives up
	})}, asked
}

func TestAHangingAgentHasADeadline(t *testing.T) {
	t.Parallel()
	a, _ := hanging(t, 20*time.Millisecond)
	if _, err := a.Keys(t.Context()); !errs.Is(err, errs.DeadlineExceeded) || !strings.Contains(err.Error(), "20ms") || errs.From(err).Hint == "" {
		t.Errorf("got %v", err)
	}
	a, asked := hanging(t, 0)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-asked; cancel() }()
	if _, err := a.Keys(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("the caller gave up: %v", err)
	}

	// One that answers the list and hangs when it should sign.
	ed := newEd25519(t)
	ring := agent.NewKeyring()
	if err := ring.Add(agent.AddedKey{PrivateKey: ed}); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	slow := sign.Agent{Timeout: time.Minute, Socket: serving(t, lying{Agent: ring, sign: func([]byte) (*ssh.Signature, error) {
		<-stop
		return nil, errors.New("too late")
	}})}
	t.Cleanup(func() { close(stop) })
	s, err := slow.Key(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	soon, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.Sign(soon, sample()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the caller's deadline: %v", err)
	}
	done, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Sign(done, sample()); !errors.Is(err, context.Canceled) {
		t.Errorf("a call that had ended: %v", err)
	}
}

func TestAnAgentThatIsNotThere(t *testing.T) {
	t.Parallel()
	if _, err := (sign.Agent{}).Keys(t.Context()); !errs.Is(err, errs.InvalidConfig) || !strings.Contains(errs.From(err).Hint, sign.AgentVariable) {
		t.Errorf("no socket is named: %v", err)
	}
	if _, err := (sign.Agent{Socket: socketPath(t)}).Keys(t.Context()); !errs.Is(err, errs.Unavailable) {
		t.Errorf("nobody listens: %v", err)
	}
}

// What an agent signs for a login or for ssh-keygen -Y never begins like an intent.
func TestIntentsAreNothingThatSSHSigns(t *testing.T) {
	t.Parallel()
	m, err := sample().Message()
	if err != nil {
		t.Fatal(err)
	}
	length := binary.BigEndian.Uint32(m)
	// A login signs its session id first, a hash of SSH's key exchange, as a string.
	if slices.Contains([]uint32{20, 32, 48, 64}, length) {
		t.Errorf("an intent begins with the length of a session id: %d", length)
	}
	if bytes.HasPrefix(m, []byte("SSHSIG")) {
		t.Error("an intent begins like a signature of ssh-keygen -Y")
	}
}
