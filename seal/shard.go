package seal

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/memsec/reveal"
	"github.com/openkcm/krypton-cluster/seal/agebox"
	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

// ShardSize is the length of what is in the age file of a person, in bytes: a
// share in binary form.
const ShardSize = wireSize

// ErrNoShard is the cause when the holder has no encrypted shard, or nobody has that number
// (errs.NotFound).
var ErrNoShard = errors.New("holder without an encrypted shard")

// Shard returns the encrypted shard of the holder of that share: for a person an
// age file, which only the person opens. It is ciphertext. The caller does not
// change it.
func (r Record) Shard(index int) ([]byte, error) {
	for _, s := range r.pb.GetShards() {
		if int(s.GetIndex()) == index {
			return s.GetEncryptedShard(), nil
		}
	}
	return nil, errs.New(errs.NotFound, fmt.Sprintf("share %d has no encrypted shard here", index),
		errs.Hint("a printed share is on its paper; krypton status shows who holds what"), errs.Cause(ErrNoShard))
}

// ReadShard reads what a person's age file held, [ShardSize] bytes in protected
// memory. The caller keeps plain and owns the share; which cluster it is for is
// settled by [Share.Claim], and whether it is the right one by [CheckShare].
func ReadShard(plain memsec.Secret) (s Share, err error) {
	err = reveal.With(plain, func(b []byte) error {
		var err error
		s, err = decodeWire(bytes.Clone(b)) // wipes the copy
		return err
	})
	return s, err
}

// openShard asks the keystore that holds a share for it, and returns the share
// only if it is the one that was given out (I3). The error of a keystore, also for
// a shard that opens to something else, is a [*keystore.Error]. The caller owns
// the share; it is marked for no cluster.
func openShard(ctx context.Context, r Record, index int, keystores *keystore.Registry) (Share, error) {
	h, err := r.holder(index)
	if err != nil {
		return Share{}, err
	}
	k := keyOf(h.GetProviderKey())
	if h.GetKind() != sealpb.HolderKind_HOLDER_KIND_KEYSTORE {
		return Share{}, errs.New(errs.FailedState, fmt.Sprintf("share %d is held by a person", index), errs.Cause(ErrNoShard))
	}
	b, err := r.Shard(index)
	if err != nil {
		return Share{}, err
	}
	x, err := keystoreShard(h, b)
	if err != nil {
		return Share{}, refuseRecord(err) // was checked with the record
	}
	c := r.ceremony()
	secret, err := c.shardBinding(index).open(ctx, x, k, keystores)
	if err != nil {
		return Share{}, err
	}
	s := Share{keyspace: c.Keyspace, ceremony: c.ID, generation: c.Generation, index: uint8(index), secret: secret} //nolint:gosec // At most MaxShares.
	err = reveal.With(secret, func(b []byte) error {
		s.x = b[len(b)-1]
		return nil
	})
	if err == nil {
		err = CheckShare(r.pb.GetManifest(), s)
	}
	if err != nil {
		s.Destroy()
		return Share{}, keystore.NewError(keystore.Error{Class: keystore.Corrupt, Provider: k.Provider, Key: k.Key, Op: keystore.OpUnwrap}, err)
	}
	return s, nil
}

// holder returns the holder of a share.
func (r Record) holder(index int) (*sealpb.Holder, error) {
	all := r.pb.GetManifest().GetHolders()
	if index < 1 || index > len(all) {
		return nil, errs.New(errs.NotFound, fmt.Sprintf("there is no share %d; there are %d", index, len(all)), errs.Cause(ErrNoShard))
	}
	return all[index-1], nil
}

// encryptShard makes the encrypted shard for a holder that has one.
func encryptShard(ctx context.Context, rand io.Reader, c Ceremony, h Holder, s Share, keystores *keystore.Registry) ([]byte, error) {
	if !h.IsKeystore() {
		b, err := s.encryptTo(ctx, h.Recipient)
		if err == nil && len(b) > MaxShard {
			err = fmt.Errorf("the age file has %d bytes, the limit is %d", len(b), MaxShard)
		}
		return b, err
	}
	ctx, cancel := c.limited(ctx)
	defer cancel()
	x, err := c.shardBinding(s.Index()).seal(ctx, rand, s.secret, h.Key, keystores)
	if err != nil {
		return nil, err
	}
	return proto.MarshalOptions{Deterministic: true}.Marshal(&sealpb.KeystoreShard{
		ProviderKey: &sealpb.ProviderKey{Provider: h.Key.Provider, Key: string(h.Key.Key)},
		KeyVersion:  x.keyVersion, WrappedKey: x.wrappedKey, Nonce: x.nonce, SealedShare: x.sealed,
		CreateTimeUnixNano: c.Time.UnixNano(),
	})
}

// encryptTo makes an age file of the share, for one recipient.
func (s Share) encryptTo(ctx context.Context, recipient string) (file []byte, err error) {
	err = reveal.With(s.secret, func(b []byte) error {
		var room [wireSize]byte
		defer clear(room[:])
		var err error
		file, err = agebox.Encrypt(ctx, recipient, append(s.appendHead(room[:0]), b...))
		return err
	})
	return file, err
}

// keystoreShard decodes the shard of a keystore and compares it with its holder.
func keystoreShard(h *sealpb.Holder, b []byte) (box, error) {
	pb := new(sealpb.KeystoreShard)
	if err := proto.Unmarshal(b, pb); err != nil {
		return box{}, errors.New("its encrypted shard is not that of a keystore")
	}
	if len(pb.ProtoReflect().GetUnknown()) > 0 || len(pb.GetProviderKey().ProtoReflect().GetUnknown()) > 0 {
		return box{}, errors.New("its encrypted shard has fields that this version does not know; a newer version made it")
	}
	if keyOf(pb.GetProviderKey()) != keyOf(h.GetProviderKey()) {
		return box{}, errors.New("its encrypted shard is of another provider key than its holder's")
	}
	x := box{keyVersion: pb.GetKeyVersion(), wrappedKey: pb.GetWrappedKey(), nonce: pb.GetNonce(), sealed: pb.GetSealedShare()}
	return x, x.check(shareSize)
}

// shardBinding binds the shard of a keystore to its place.
func (c Ceremony) shardBinding(index int) binding {
	at := func(purpose string) []byte {
		return encoding(c.aad(purpose)).u32(4).u32(uint32(index)) //nolint:gosec // At most MaxShares.
	}
	return binding{outer: at("krypton/v1/seal-shard"), inner: at("krypton/v1/seal-share")}
}

func hashOf(b []byte) []byte {
	sum := sha256.Sum256(b)
	return sum[:]
}
