//go:build cgo && unix && !nopkcs11

package main

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/miekg/pkcs11"

	"github.com/openkcm/krypton-cluster/keystore/blob"
	"github.com/openkcm/krypton-cluster/keystore/pkcs11/wire"
)

// Mechanisms that the wrapper has no name for.
const (
	ckmAESKeyWrapKWP = 0x0000210B // PKCS#11 v3.0: RFC 5649
	ckrAEADDecrypt   = 0x00000035 // PKCS#11 v3.0: CKR_AEAD_DECRYPT_FAILED
)

// token is the one token that this process speaks to.
type token struct {
	ctx   *pkcs11.Ctx
	slot  uint
	hello wire.Hello
	info  wire.Token
	mechs map[uint]uint // flags of the mechanisms of ours that the token has

	login sync.Mutex // one log-in at a time; held over C_Login

	mu     sync.Mutex
	anchor pkcs11.SessionHandle // keeps the user logged in; closing a token's last session logs out
	open   bool                 // whether there is an anchor
	chosen map[string]choice    // by object and attributes: what a probe showed to work
}

// fault is why a token could not be opened.
type fault struct {
	stage wire.Stage
	ckr   uint32
	text  string
}

// openToken loads the module and finds the token by label or serial number: a
// slot's number is another one after each start of some libraries.
func openToken(h wire.Hello) (*token, *fault) {
	t := &token{ctx: pkcs11.New(h.Module), hello: h, mechs: map[uint]uint{}, chosen: map[string]choice{}}
	if t.ctx == nil {
		return nil, &fault{stage: wire.StageLoad, text: fmt.Sprintf("module %s is not a PKCS#11 library that loads here", h.Module)}
	}
	if err := t.ctx.Initialize(); err != nil {
		return nil, &fault{wire.StageInitialize, ckr(err), "the module does not initialise: " + err.Error()}
	}
	slots, err := t.ctx.GetSlotList(true)
	if err != nil {
		return nil, &fault{wire.StageTokenInfo, ckr(err), "C_GetSlotList: " + err.Error()}
	}
	found := 0
	for _, slot := range slots {
		info, err := t.ctx.GetTokenInfo(slot)
		if err != nil || info.Flags&pkcs11.CKF_TOKEN_INITIALIZED == 0 ||
			(h.Label != "" && info.Label != h.Label) || (h.Serial != "" && info.SerialNumber != h.Serial) {
			continue
		}
		found++
		t.slot = slot
		t.info = wire.Token{
			Version: wire.Version, Label: info.Label, Serial: info.SerialNumber, Manufacturer: info.ManufacturerID, Model: info.Model,
			Firmware: fmt.Sprintf("%d.%d", info.FirmwareVersion.Major, info.FirmwareVersion.Minor),
		}
	}
	switch {
	case found == 0:
		return nil, &fault{stage: wire.StageTokenInfo, ckr: pkcs11.CKR_TOKEN_NOT_PRESENT, text: fmt.Sprintf("no initialised token with label %q or serial number %q among %d slots", h.Label, h.Serial, len(slots))}
	case found > 1:
		return nil, &fault{stage: wire.StageTokenInfo, text: fmt.Sprintf("%d tokens have the label %q; name the one that is meant by its serial number", found, h.Label)}
	}
	if info, err := t.ctx.GetSlotInfo(t.slot); err == nil {
		t.info.Hardware = info.Flags&pkcs11.CKF_HW_SLOT != 0
	}
	if info, err := t.ctx.GetInfo(); err == nil {
		t.info.Library = fmt.Sprintf("%s %d.%d", info.LibraryDescription, info.LibraryVersion.Major, info.LibraryVersion.Minor)
	}
	return t, t.readMechanisms()
}

// readMechanisms notes what the token can do of what we use.
func (t *token) readMechanisms() *fault {
	list, err := t.ctx.GetMechanismList(t.slot)
	if err != nil {
		return &fault{wire.StageTokenInfo, ckr(err), "C_GetMechanismList: " + err.Error()}
	}
	names := map[uint]string{
		ckmAESKeyWrapKWP: "CKM_AES_KEY_WRAP_KWP", pkcs11.CKM_AES_KEY_WRAP_PAD: "CKM_AES_KEY_WRAP_PAD", pkcs11.CKM_AES_KEY_WRAP: "CKM_AES_KEY_WRAP",
		pkcs11.CKM_AES_GCM: "CKM_AES_GCM", pkcs11.CKM_RSA_PKCS_OAEP: "CKM_RSA_PKCS_OAEP", pkcs11.CKM_RSA_AES_KEY_WRAP: "CKM_RSA_AES_KEY_WRAP",
	}
	for _, m := range list {
		name, ours := names[m.Mechanism]
		if !ours {
			continue
		}
		info, err := t.ctx.GetMechanismInfo(t.slot, []*pkcs11.Mechanism{m})
		if err != nil {
			return &fault{wire.StageTokenInfo, ckr(err), "C_GetMechanismInfo: " + err.Error()}
		}
		t.mechs[m.Mechanism] = info.Flags
		t.info.Mechanisms = append(t.info.Mechanisms, name)
	}
	slices.Sort(t.info.Mechanisms)
	return nil
}

// ckr returns the CKR in err, or CKR_GENERAL_ERROR.
func ckr(err error) uint32 {
	if e, ok := errors.AsType[pkcs11.Error](err); ok {
		return uint32(e) //nolint:gosec // CKR values are 32 bits wide.
	}
	return pkcs11.CKR_GENERAL_ERROR
}

// statusOf says what a CKR means where it says what is wrong. StatusFailed: it
// does not.
func statusOf(code uint32) wire.Status {
	switch code {
	case pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_SESSION_CLOSED, pkcs11.CKR_DEVICE_REMOVED, pkcs11.CKR_TOKEN_NOT_PRESENT,
		pkcs11.CKR_TOKEN_NOT_RECOGNIZED, pkcs11.CKR_SLOT_ID_INVALID, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, pkcs11.CKR_DEVICE_ERROR:
		return wire.StatusStale
	case pkcs11.CKR_USER_NOT_LOGGED_IN:
		return wire.StatusLoggedOut
	case pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED:
		return wire.StatusForbidden
	case pkcs11.CKR_OBJECT_HANDLE_INVALID, pkcs11.CKR_KEY_HANDLE_INVALID, pkcs11.CKR_UNWRAPPING_KEY_HANDLE_INVALID, pkcs11.CKR_WRAPPING_KEY_HANDLE_INVALID:
		return wire.StatusNotFound
	case pkcs11.CKR_SESSION_COUNT:
		return wire.StatusBusy
	case pkcs11.CKR_MECHANISM_INVALID, pkcs11.CKR_MECHANISM_PARAM_INVALID, pkcs11.CKR_ARGUMENTS_BAD, pkcs11.CKR_KEY_TYPE_INCONSISTENT,
		pkcs11.CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT, pkcs11.CKR_WRAPPING_KEY_TYPE_INCONSISTENT, pkcs11.CKR_KEY_SIZE_RANGE, pkcs11.CKR_FUNCTION_NOT_SUPPORTED,
		pkcs11.CKR_TEMPLATE_INCONSISTENT, pkcs11.CKR_TEMPLATE_INCOMPLETE, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID, pkcs11.CKR_ATTRIBUTE_VALUE_INVALID,
		pkcs11.CKR_ATTRIBUTE_READ_ONLY, pkcs11.CKR_ATTRIBUTE_SENSITIVE, pkcs11.CKR_KEY_NOT_WRAPPABLE, pkcs11.CKR_KEY_UNEXTRACTABLE:
		return wire.StatusUnfit
	case pkcs11.CKR_PIN_INCORRECT, pkcs11.CKR_PIN_INVALID, pkcs11.CKR_PIN_LEN_RANGE, pkcs11.CKR_PIN_EXPIRED, pkcs11.CKR_PIN_LOCKED, pkcs11.CKR_USER_PIN_NOT_INITIALIZED:
		return wire.StatusPIN
	}
	return wire.StatusFailed
}

// worker answers requests in a session of its own (I1).
type worker struct {
	*token

	session pkcs11.SessionHandle
	opened  bool
}

// do answers one request. Whatever failed, the session is not used again: an
// operation may still be active in it.
func (w *worker) do(req wire.Request, payload []byte) (answer, []byte) {
	a, out := w.dispatch(req, payload)
	if a.Status != wire.StatusOK && a.Status != wire.StatusChanged {
		w.closeSession()
	}
	return a, out
}

func (w *worker) dispatch(req wire.Request, payload []byte) (answer, []byte) {
	switch req.Op {
	case wire.OpPIN:
		return w.readPIN(payload)
	case wire.OpLogin:
		return w.logIn(payload), nil
	case wire.OpHealth:
		return w.health(), nil
	case wire.OpSelect, wire.OpWrap, wire.OpUnwrap, wire.OpDescribe, wire.OpImport, wire.OpImportTo:
	case wire.OpHello:
		return answer{Status: wire.StatusFailed}, nil
	}
	if a := w.ready(); a.Status != wire.StatusOK {
		return a, nil
	}
	switch req.Op { //nolint:exhaustive // The others are above.
	case wire.OpSelect:
		return w.selectKey(req), nil
	case wire.OpWrap:
		return w.wrap(req, payload), nil
	case wire.OpUnwrap:
		return w.unwrap(req)
	case wire.OpDescribe:
		return w.describe(req)
	case wire.OpImportTo:
		return w.importTo(req)
	case wire.OpImport:
		return w.importKey(req), nil
	default:
		return answer{Status: wire.StatusFailed}, nil
	}
}

// failed is the answer for err of the C function of that stage.
func failed(stage wire.Stage, err error) answer {
	code := ckr(err)
	a := answer{Status: statusOf(code), Stage: stage, CKR: code}
	// A failure without a meaning where no ciphertext can be the reason (I6).
	if a.Status == wire.StatusFailed && stage != wire.StageDecrypt && stage != wire.StageUnwrapKey {
		a.Status = wire.StatusStale
	}
	return a
}

// ready opens the session and checks that the user is logged in.
func (w *worker) ready() answer {
	w.mu.Lock()
	anchored := w.open
	w.mu.Unlock()
	if !anchored {
		return answer{Status: wire.StatusLoggedOut}
	}
	if w.opened {
		return answer{Status: wire.StatusOK}
	}
	s, err := w.ctx.OpenSession(w.slot, pkcs11.CKF_SERIAL_SESSION)
	if err != nil {
		return failed(wire.StageOpenSession, err)
	}
	w.session, w.opened = s, true
	return answer{Status: wire.StatusOK}
}

func (w *worker) closeSession() {
	if w.opened {
		_ = w.ctx.CloseSession(w.session) // a session that does not close is lost with its token
	}
	w.opened = false
}

// asUser reports whether the session is one of a logged-in user.
func (w *worker) asUser() (bool, error) {
	info, err := w.ctx.GetSessionInfo(w.session)
	if err != nil {
		return false, err
	}
	return info.State == pkcs11.CKS_RO_USER_FUNCTIONS || info.State == pkcs11.CKS_RW_USER_FUNCTIONS, nil
}

func (w *worker) health() answer {
	if a := w.ready(); a.Status != wire.StatusOK {
		return a
	}
	info, err := w.ctx.GetTokenInfo(w.slot)
	if err != nil {
		return failed(wire.StageTokenInfo, err)
	}
	if info.SerialNumber != w.info.Serial || info.Label != w.info.Label {
		return answer{Status: wire.StatusStale, Stage: wire.StageTokenInfo}
	}
	// Some libraries answer the rest from memory. A search goes to the token.
	if _, err := w.handles([]*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, "")}); err != nil {
		return failed(wire.StageFind, err)
	}
	user, err := w.asUser()
	if err != nil {
		return failed(wire.StageTokenInfo, err)
	}
	if !user {
		return answer{Status: wire.StatusLoggedOut}
	}
	return answer{Status: wire.StatusOK}
}

// readPIN answers with the fingerprint of the PIN file.
func (w *worker) readPIN(key []byte) (answer, []byte) {
	var out []byte
	err := withPIN(w.hello.PINFile, key, func(_ []byte, f [fingerprintSize]byte) error {
		out = f[:]
		return nil
	})
	if err != nil {
		return answer{Status: wire.StatusPINFile}, []byte(err.Error())
	}
	return answer{Status: wire.StatusOK}, out
}

// errAnotherPIN: the file changed between the fingerprint and the log-in.
var errAnotherPIN = errors.New("the PIN file changed meanwhile")

// logIn tries the PIN whose fingerprint the node has allowed, once (I2). It
// never uses the last try that a token reports: a locked PIN is the end of a
// token's use, and who made the mistakes before is not known here.
func (w *worker) logIn(payload []byte) answer {
	if len(payload) != keySize+fingerprintSize {
		return answer{Status: wire.StatusFailed, Stage: wire.StageLogin}
	}
	w.login.Lock()
	defer w.login.Unlock()
	w.mu.Lock()
	anchored := w.open
	w.mu.Unlock()
	if anchored {
		return answer{Status: wire.StatusOK}
	}
	info, err := w.ctx.GetTokenInfo(w.slot)
	if err != nil {
		return failed(wire.StageTokenInfo, err)
	}
	if info.Flags&pkcs11.CKF_USER_PIN_LOCKED != 0 {
		return answer{Status: wire.StatusPIN, Stage: wire.StageLogin, CKR: pkcs11.CKR_PIN_LOCKED}
	}
	if info.Flags&pkcs11.CKF_USER_PIN_FINAL_TRY != 0 {
		return answer{Status: wire.StatusPIN, Stage: wire.StageLogin}
	}
	session, err := w.ctx.OpenSession(w.slot, pkcs11.CKF_SERIAL_SESSION)
	if err != nil {
		return failed(wire.StageOpenSession, err)
	}
	err = withPIN(w.hello.PINFile, payload[:keySize], func(pin []byte, f [fingerprintSize]byte) error {
		if string(f[:]) != string(payload[keySize:]) {
			return errAnotherPIN
		}
		return w.ctx.Login(session, pkcs11.CKU_USER, text(pin))
	})
	if code, is := errors.AsType[pkcs11.Error](err); err == nil || is && code == pkcs11.CKR_USER_ALREADY_LOGGED_IN {
		w.mu.Lock()
		w.anchor, w.open = session, true
		w.mu.Unlock()
		return answer{Status: wire.StatusOK}
	}
	_ = w.ctx.CloseSession(session) // what failed is told
	if _, is := errors.AsType[pkcs11.Error](err); !is {
		return answer{Status: wire.StatusPINFile, Stage: wire.StageLogin}
	}
	return failed(wire.StageLogin, err)
}

// mechanismOf returns what a name of the setting allows; nil allows all.
func mechanismOf(name string) []blob.Mechanism {
	switch name {
	case "aes-kwp":
		return []blob.Mechanism{blob.AESKWP}
	case "aes-gcm":
		return []blob.Mechanism{blob.AESGCM}
	case "aes-kw":
		return []blob.Mechanism{blob.AESKW}
	case "rsa-oaep":
		return []blob.Mechanism{blob.OAEPSHA256, blob.OAEPSHA1}
	}
	return nil
}
