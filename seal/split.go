package seal

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
	"io"
	"runtime"

	"github.com/hashicorp/vault/shamir"

	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/memsec/reveal"
	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

// splitAll divides the MasterKey over the holders of a plan and returns their
// shares, in order. One group divides the MasterKey itself. Of several each
// divides a secret of its own, and the MasterKey is sealed under all of them
// together: shares of one group alone, however many, say nothing about it.
func splitAll(rand io.Reader, masterKey memsec.Secret, c Ceremony, groups []Group) (_ []Share, _ *sealpb.GroupSeal, err error) {
	var shares []Share
	defer func() {
		if err != nil {
			destroyAll(shares)
		}
	}()
	if len(groups) == 1 {
		shares, err = split(masterKey, c, groups[0], 1)
		return shares, nil, err
	}
	secrets := make([]memsec.Secret, 0, len(groups))
	defer func() {
		for _, s := range secrets {
			s.Destroy()
		}
	}()
	for _, g := range groups {
		s, err := memsec.Random(rand, memsec.KeySize, memsec.Cold)
		if err != nil {
			return nil, nil, fmt.Errorf("make the secret of a group: %w", err)
		}
		secrets = append(secrets, s)
		some, err := split(s, c, g, len(shares)+1)
		if err != nil {
			return nil, nil, err
		}
		shares = append(shares, some...)
	}
	w, err := groupsKey(secrets, c)
	if err != nil {
		return nil, nil, err
	}
	defer w.Destroy()
	nonce, sealed, err := sealUnder(rand, w, masterKey, c.aad("krypton/v1/seal-groups-masterkey"))
	if err != nil {
		return nil, nil, err
	}
	return shares, &sealpb.GroupSeal{Nonce: nonce, SealedMasterKey: sealed}, nil
}

// split divides the secret of one group; the first share gets the number from.
// Everything that the library makes is made in the scope of reveal, which erases
// it where the build can once the caller collected ([collect]), and each part is
// wiped when it was taken over.
func split(secret memsec.Secret, c Ceremony, g Group, from int) (shares []Share, err error) {
	err = reveal.With(secret, func(b []byte) error {
		parts, err := shamir.Split(b, len(g.Holders), g.Threshold)
		defer func() {
			for _, b := range parts {
				clear(b)
			}
		}()
		if err != nil {
			return err
		}
		for i, b := range parts {
			if len(b) != shareSize {
				return fmt.Errorf("a part has %d bytes, want %d", len(b), shareSize)
			}
			s := Share{keyspace: c.Keyspace, ceremony: c.ID, generation: c.Generation, index: uint8(from + i), x: b[shareSize-1]} //nolint:gosec // At most MaxShares, see Plan.check.
			if s.secret, err = memsec.Take(b, memsec.Cold); err != nil {
				return fmt.Errorf("keep share %d: %w", s.index, err)
			}
			shares = append(shares, s)
		}
		return nil
	})
	if err != nil {
		destroyAll(shares)
		return nil, fmt.Errorf("split a secret: %w", err)
	}
	return shares, nil
}

// combine reconstructs the MasterKey from shares of all groups, in any order.
// Each share is compared with the manifest before anything is computed, so that a
// wrong one is named (I3); then the result is compared with the commitment (I2).
// The caller keeps the shares.
func combine(r Record, shares []Share) (memsec.Secret, error) {
	defer collect()
	return reconstruct(r, shares)
}

// collect has what the Shamir library left on the heap, in the scope of reveal and
// unreachable by now, erased where the runtime erases secrets.
func collect() { runtime.GC() }

// reconstruct is combine for a caller that collects by itself.
func reconstruct(r Record, shares []Share) (memsec.Secret, error) {
	m := r.pb.GetManifest()
	groups := r.Plan().Groups
	of := make([][]Share, len(groups))
	given := make(map[uint8]bool)
	for _, s := range shares {
		if err := CheckShare(m, s); err != nil {
			return memsec.Secret{}, err
		}
		if given[s.index] {
			return memsec.Secret{}, refuseShare(ErrShareDuplicate, fmt.Sprintf("share %d was given already", s.index), "give the share of another holder")
		}
		given[s.index] = true
		g := m.GetHolders()[s.index-1].GetGroup()
		of[g] = append(of[g], s)
	}
	for i, g := range groups {
		if len(of[i]) < g.Threshold {
			return memsec.Secret{}, errs.New(errs.Sealed, fmt.Sprintf("group %d has %d of the %d shares that it takes", i+1, len(of[i]), g.Threshold),
				errs.Hint("give the shares that are missing"))
		}
	}
	masterKey, err := join(r, of)
	if err != nil {
		return memsec.Secret{}, err
	}
	if err := checkCommitment(r, masterKey); err != nil {
		masterKey.Destroy()
		return memsec.Secret{}, err
	}
	return masterKey, nil
}

// join is combine without its checks: one list of shares for each group.
func join(r Record, groups [][]Share) (memsec.Secret, error) {
	if len(groups) == 1 {
		return joinShares(groups[0])
	}
	secrets := make([]memsec.Secret, 0, len(groups))
	defer func() {
		for _, s := range secrets {
			s.Destroy()
		}
	}()
	for _, some := range groups {
		s, err := joinShares(some)
		if err != nil {
			return memsec.Secret{}, err
		}
		secrets = append(secrets, s)
	}
	w, err := groupsKey(secrets, r.ceremony())
	if err != nil {
		return memsec.Secret{}, err
	}
	defer w.Destroy()
	g := r.pb.GetGroupSeal()
	masterKey, err := openUnder(w, g.GetNonce(), g.GetSealedMasterKey(), r.ceremony().aad("krypton/v1/seal-groups-masterkey"))
	if errs.Is(err, errs.Integrity) {
		return memsec.Secret{}, notTheMasterKey("the sealed MasterKey of the record does not open with the shares of its manifest")
	}
	return masterKey, err
}

// joinShares reconstructs one secret.
func joinShares(shares []Share) (memsec.Secret, error) { return joinAt(shares, 0) }

// joinAt returns the value at x of the polynomials on which the shares lie: their secret
// at 0, and another share elsewhere. The library knows only 0, and addition in GF(2^8) is
// exclusive or: with every point moved by x, what is at x comes to lie at 0. x is of none
// of the shares. Everything is made in the scope of reveal.
func joinAt(shares []Share, x uint8) (memsec.Secret, error) {
	return reveal.New(memsec.KeySize, memsec.Cold, func(dst []byte) error {
		flat := make([]byte, len(shares)*shareSize)
		defer clear(flat)
		parts := make([][]byte, len(shares))
		for i, s := range shares {
			parts[i] = flat[i*shareSize : (i+1)*shareSize]
			if err := reveal.With(s.secret, func(b []byte) error {
				if len(b) != shareSize {
					return fmt.Errorf("share %d has %d bytes, want %d", s.index, len(b), shareSize)
				}
				copy(parts[i], b)
				return nil
			}); err != nil {
				return err
			}
			parts[i][shareSize-1] ^= x
		}
		b, err := shamir.Combine(parts)
		if err != nil {
			return fmt.Errorf("combine shares: %w", err)
		}
		defer clear(b)
		if len(b) != len(dst) {
			return fmt.Errorf("combine shares: %d bytes, want %d", len(b), len(dst))
		}
		copy(dst, b)
		return nil
	})
}

// checkWhole compares every share hash of a record with the share that lies on the
// polynomials of those that were given, as many of each group as it takes (I15).
func checkWhole(r Record, given []Share) error {
	defer collect()
	of := make(map[uint32][]Share)
	has := make(map[uint32]bool)
	holders := r.pb.GetManifest().GetHolders()
	for _, s := range given {
		h := holders[s.index-1] // was compared with the manifest
		of[h.GetGroup()] = append(of[h.GetGroup()], s)
		has[h.GetIndex()] = true
	}
	for _, h := range holders {
		if has[h.GetIndex()] {
			continue
		}
		d, err := impliedHash(r, of[h.GetGroup()], h)
		if err != nil {
			return err
		}
		if !bytes.Equal(d[:], h.GetShareHash()) {
			return errs.New(errs.StateCorrupt, fmt.Sprintf("share %d of the new seal is not one that opens it: whoever made the seal made it wrong", h.GetIndex()),
				errs.Hint("cancel the ceremony, and find out what is wrong with the node that made the seal: krypton ceremony status"), errs.Cause(ErrShareWrong))
		}
	}
	return nil
}

// impliedHash is the hash that the share of h has if it lies where the others of its
// group do.
func impliedHash(r Record, some []Share, h *sealpb.Holder) (Digest, error) {
	x := uint8(h.GetX()) //nolint:gosec // At most MaxShares, see manifest.Check.
	value, err := joinAt(some, x)
	if err != nil {
		return Digest{}, err
	}
	defer value.Destroy()
	c := r.ceremony()
	s := Share{keyspace: c.Keyspace, ceremony: c.ID, generation: c.Generation, index: uint8(h.GetIndex()), x: x} //nolint:gosec // The same.
	s.secret, err = reveal.New(shareSize, memsec.Cold, func(dst []byte) error {
		return reveal.With(value, func(b []byte) error {
			dst[copy(dst, b)] = x
			return nil
		})
	})
	if err != nil {
		return Digest{}, err
	}
	defer s.Destroy()
	return s.hash()
}

// groupsKey derives the key under which the MasterKey is sealed from the secrets
// of all groups, in their order. Each secret has a fixed length, so that no two
// lists of them run together.
func groupsKey(secrets []memsec.Secret, c Ceremony) (memsec.Secret, error) {
	extracted, err := reveal.New(sha256.Size, memsec.Hot, func(dst []byte) error {
		ikm := make([]byte, 0, len(secrets)*memsec.KeySize)
		defer func() { clear(ikm[:cap(ikm)]) }()
		for _, s := range secrets {
			if err := reveal.With(s, func(b []byte) error {
				if len(b) != memsec.KeySize {
					return fmt.Errorf("secret of a group with %d bytes, want %d", len(b), memsec.KeySize)
				}
				ikm = append(ikm, b...)
				return nil
			}); err != nil {
				return err
			}
		}
		prk, err := hkdf.Extract(sha256.New, ikm, nil)
		defer clear(prk)
		copy(dst, prk)
		return err
	})
	if err != nil {
		return memsec.Secret{}, fmt.Errorf("derive the key of the groups: %w", err)
	}
	defer extracted.Destroy()
	info := encoding(c.aad("krypton/v1/seal-groups")).u32(4).u32(uint32(len(secrets))) //nolint:gosec // At most MaxGroups.
	return memsec.Expand(extracted, info, memsec.Hot)
}

func destroyAll(shares []Share) {
	for _, s := range shares {
		s.Destroy()
	}
}
