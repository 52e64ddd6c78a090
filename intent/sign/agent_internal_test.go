package sign

import (
	"bytes"
	"encoding/binary"
	"io"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/openkcm/krypton-cluster/intent"
)

// FuzzAgentAnswers: whatever an agent lists and signs, a key is either refused
// with a reason or one of the registry's, and a signature is of the right size.
func FuzzAgentAnswers(f *testing.F) {
	ed := ssh.Marshal(struct{ Name, Key string }{ssh.KeyAlgoED25519, string(bytes.Repeat([]byte{3}, 32))})
	list := ssh.Marshal(struct {
		Type    byte
		Count   uint32
		Blob    []byte
		Comment string
	}{12, 1, ed, "alice"})
	f.Add(list, ssh.Marshal(ssh.Signature{Format: ssh.KeyAlgoED25519, Blob: make([]byte, 64)}))
	f.Add(list, ssh.Marshal(ssh.Signature{Format: ssh.KeyAlgoECDSA256, Blob: []byte{0, 0, 0, 1, 1, 0, 0, 0, 1, 1}}))
	f.Add([]byte{12, 0, 0, 0, 0}, []byte{})
	f.Fuzz(func(t *testing.T, list, sig []byte) {
		answer := append(binary.BigEndian.AppendUint32(nil, uint32(len(list))), list...)
		listed, err := agent.NewClient(duplex{bytes.NewReader(answer), io.Discard}).List()
		if err == nil {
			for _, l := range listed {
				if k := agentKey(l); (k.Unusable == "") == k.Public.IsZero() {
					t.Errorf("%+v is neither usable nor refused", k)
				}
			}
		}
		var s ssh.Signature
		if ssh.Unmarshal(sig, &s) != nil {
			return
		}
		for _, alg := range []intent.Alg{intent.AlgUnspecified, intent.AlgEd25519, intent.AlgECDSAP256SHA256} {
			b, err := fromSSH(alg, &s)
			if err == nil && (alg == intent.AlgUnspecified || alg == intent.AlgEd25519 && len(b) != 64) {
				t.Errorf("%x of %s is taken for a signature", b, alg)
			}
		}
	})
}
