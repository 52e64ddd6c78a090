package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/openkcm/krypton-cluster/keystore/blob"
)

// Version is the protocol's. A change of anything here raises it.
const Version = 1

// MaxFrame is the longest frame behind its length, in bytes: the longest AAD
// and blob with room for the rest.
const MaxFrame = 32 << 10

const header = 4 + 8

// ErrMalformed is every frame that does not decode.
var ErrMalformed = errors.New("malformed frame")

// Op is what the node asks for. The zero value is invalid.
type Op uint8

// The operations.
const (
	OpHello    Op = 1  // payload: JSON of [Hello]; answer: JSON of [Token]
	OpPIN      Op = 2  // payload: 32 bytes MAC key; answer: 40 bytes fingerprint of the PIN file
	OpLogin    Op = 3  // payload: MAC key and fingerprint
	OpSelect   Op = 4  // key reference; answer: id and mechanism that wrap now
	OpWrap     Op = 5  // key reference, id and mechanism of OpSelect, AAD, payload the secret; answer: IV and wrapped
	OpUnwrap   Op = 6  // key reference, id, mechanism, IV, AAD, wrapped; answer: payload the secret
	OpDescribe Op = 7  // key reference; answer: JSON of [Key]
	OpHealth   Op = 8  // the user is logged in and the token answers
	OpImport   Op = 9  // key reference, mechanism and id of the wrapping key, wrapped; answer: id of the new version
	OpImportTo Op = 10 // key reference; answer: payload the public key, mechanism and id of the wrapping key
)

// Status is how a call ended. The zero value is invalid.
type Status uint8

// The statuses.
const (
	StatusOK        Status = 1
	StatusChanged   Status = 2  // OpWrap: id or mechanism are no longer those of OpSelect; the answer has the new ones
	StatusNotFound  Status = 3  // no such object, in two finds of a session whose user is logged in
	StatusForbidden Status = 4  // the object is there and its attributes forbid the use
	StatusCorrupt   Status = 5  // the ciphertext does not open, and another one under the same key does
	StatusUnfit     Status = 6  // token, key and mechanism do not go together; CKR says why
	StatusLoggedOut Status = 7  // no user is logged in
	StatusStale     Status = 8  // session, slot or library are not to be trusted any more; the helper is to be replaced
	StatusPIN       Status = 9  // the token refused the PIN, or will not take one: CKR says why
	StatusBusy      Status = 10 // no more sessions
	StatusFailed    Status = 11 // anything else; CKR and stage say what
	StatusPINFile   Status = 12 // the PIN file cannot be used; payload: why, as text
	StatusSetup     Status = 13 // OpHello: module or token cannot be used; payload: why, as text
	StatusAmbiguous Status = 14 // two objects have this reference and id
)

// Stage is where in a call a CKR came up. The zero value is no stage.
type Stage uint8

// The stages.
const (
	StageOpenSession Stage = iota + 1
	StageLogin
	StageFind
	StageAttributes
	StageEncrypt
	StageDecrypt
	StageWrapKey
	StageUnwrapKey
	StageCreateObject
	StageReadValue
	StageTokenInfo
	StageProbe
	StageLoad
	StageInitialize
	stageEnd
)

// String returns the stage as errors write it.
func (s Stage) String() string {
	names := [...]string{
		"", "C_OpenSession", "C_Login", "C_FindObjects", "C_GetAttributeValue", "C_Encrypt", "C_Decrypt", "C_WrapKey", "C_UnwrapKey",
		"C_CreateObject", "C_GetAttributeValue of an unwrapped key", "C_GetTokenInfo", "the probe", "loading the module", "C_Initialize",
	}
	if int(s) < len(names) {
		return names[s]
	}
	return "unknown"
}

// Request is what the node asks, without its payload.
type Request struct {
	Call      uint64
	Op        Op
	Mechanism blob.Mechanism
	Ref       string
	ID        []byte // CKA_ID
	IV        []byte
	AAD       []byte
	Wrapped   []byte
}

// Answer is what the helper answers, without its payload.
type Answer struct {
	Call      uint64
	Status    Status
	Stage     Stage
	CKR       uint32
	Mechanism blob.Mechanism
	ID        []byte
	IV        []byte
	Wrapped   []byte
}

// Frame returns the frame of r with room for a payload of n bytes at its end,
// for the caller to fill in and to wipe. It is an error if that is longer than
// [MaxFrame].
func (r Request) Frame(n int) (frame, payload []byte, err error) {
	b := start(r.Call, 2+5*2+len(r.Ref)+len(r.ID)+len(r.IV)+len(r.AAD)+len(r.Wrapped)+n)
	b = append(b, byte(r.Op), byte(r.Mechanism))
	b = appendPart(b, r.Ref)
	b = appendPart(b, r.ID)
	b = appendPart(b, r.IV)
	b = appendPart(b, r.AAD)
	b = appendPart(b, r.Wrapped)
	return finish(b, n)
}

// Frame is [Request.Frame] for an answer.
func (a Answer) Frame(n int) (frame, payload []byte, err error) {
	b := start(a.Call, 7+3*2+len(a.ID)+len(a.IV)+len(a.Wrapped)+n)
	b = append(b, byte(a.Status), byte(a.Stage))
	b = binary.BigEndian.AppendUint32(b, a.CKR)
	b = append(b, byte(a.Mechanism))
	b = appendPart(b, a.ID)
	b = appendPart(b, a.IV)
	b = appendPart(b, a.Wrapped)
	return finish(b, n)
}

func start(call uint64, size int) []byte {
	b := make([]byte, 4, header+max(size, 0))
	return binary.BigEndian.AppendUint64(b, call)
}

func appendPart[T ~string | ~[]byte](b []byte, part T) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(min(len(part), MaxFrame))) // longer ones fail in finish
	return append(b, part...)
}

// finish never grows b: its capacity was made for n bytes more, so that no copy
// of a payload is left behind.
func finish(b []byte, n int) (frame, payload []byte, err error) {
	size := len(b) + n - 4
	if n < 0 || size > MaxFrame {
		return nil, nil, fmt.Errorf("a frame of %d bytes, the limit is %d", size, MaxFrame)
	}
	binary.BigEndian.PutUint32(b, uint32(size)) //nolint:gosec // At most MaxFrame.
	frame = b[:len(b)+n]
	return frame, frame[len(b):], nil
}

// ReadFrame reads one frame without its length: what [DecodeRequest] and
// [DecodeAnswer] take. Its owner wipes it. At the end of the stream between two
// frames the error is io.EOF.
func ReadFrame(r io.Reader) ([]byte, error) {
	var length [4]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, ErrMalformed
		}
		return nil, err
	}
	n := binary.BigEndian.Uint32(length[:])
	if n < 8 || n > MaxFrame {
		return nil, ErrMalformed
	}
	frame := make([]byte, n)
	if _, err := io.ReadFull(r, frame); err != nil {
		clear(frame)
		return nil, ErrMalformed
	}
	return frame, nil
}

// DecodeRequest takes a frame apart. The parts of the request are copies, the
// payload is the frame's own bytes.
func DecodeRequest(frame []byte) (Request, []byte, error) {
	r := reader{rest: frame, ok: len(frame) <= MaxFrame}
	req := Request{Call: r.u64(), Op: Op(r.u8()), Mechanism: blob.Mechanism(r.u8())}
	req.Ref = string(r.view())
	req.ID, req.IV, req.AAD, req.Wrapped = r.part(), r.part(), r.part(), r.part()
	if !r.ok || req.Op < OpHello || req.Op > OpImportTo {
		return Request{}, nil, ErrMalformed
	}
	return req, r.rest, nil
}

// DecodeAnswer is [DecodeRequest] for an answer.
func DecodeAnswer(frame []byte) (Answer, []byte, error) {
	r := reader{rest: frame, ok: len(frame) <= MaxFrame}
	a := Answer{Call: r.u64(), Status: Status(r.u8()), Stage: Stage(r.u8()), CKR: r.u32(), Mechanism: blob.Mechanism(r.u8())}
	a.ID, a.IV, a.Wrapped = r.part(), r.part(), r.part()
	if !r.ok || a.Status < StatusOK || a.Status > StatusAmbiguous || a.Stage >= stageEnd {
		return Answer{}, nil, ErrMalformed
	}
	return a, r.rest, nil
}

// reader takes parts off rest; after the first that is missing ok is false.
type reader struct {
	rest []byte
	ok   bool
}

func (r *reader) take(n int) []byte {
	if !r.ok || n > len(r.rest) {
		r.ok = false
		return make([]byte, min(n, 8))
	}
	out := r.rest[:n]
	r.rest = r.rest[n:]
	return out
}

func (r *reader) u8() uint8   { return r.take(1)[0] }
func (r *reader) u32() uint32 { return binary.BigEndian.Uint32(r.take(4)) }
func (r *reader) u64() uint64 { return binary.BigEndian.Uint64(r.take(8)) }

func (r *reader) view() []byte {
	n := int(binary.BigEndian.Uint16(r.take(2)))
	if !r.ok || n > len(r.rest) {
		r.ok = false
		return nil
	}
	return r.take(n)
}

func (r *reader) part() []byte { return append([]byte(nil), r.view()...) }
