package azureserver

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
	"errors"
)

var errKeyWrap = errors.New("the wrapped key does not open")

// keyWrapIV is the default initial value of RFC 3394, section 2.2.3.1.
const keyWrapIV = 0xA6A6A6A6A6A6A6A6

// wrapAES is AES key wrap, RFC 3394: plain has a multiple of 8 and at least 16 bytes.
func wrapAES(c cipher.Block, plain []byte) ([]byte, error) {
	if len(plain) < 16 || len(plain)%8 != 0 {
		return nil, errors.New("the value to wrap is not a multiple of 8 bytes of at least 16")
	}
	n := len(plain) / 8
	out := make([]byte, 8+len(plain))
	copy(out[8:], plain)
	var b [aes.BlockSize]byte
	binary.BigEndian.PutUint64(b[:8], keyWrapIV)
	for j := range 6 {
		for i := 1; i <= n; i++ {
			copy(b[8:], out[8*i:8*i+8])
			c.Encrypt(b[:], b[:])
			binary.BigEndian.PutUint64(b[:8], binary.BigEndian.Uint64(b[:8])^uint64(n*j+i))
			copy(out[8*i:], b[8:])
		}
	}
	copy(out, b[:8])
	return out, nil
}

// unwrapAES is the reverse of wrapAES.
func unwrapAES(c cipher.Block, wrapped []byte) ([]byte, error) {
	if len(wrapped) < 24 || len(wrapped)%8 != 0 {
		return nil, errKeyWrap
	}
	n := len(wrapped)/8 - 1
	out := append([]byte(nil), wrapped[8:]...)
	var b [aes.BlockSize]byte
	copy(b[:8], wrapped)
	for j := 5; j >= 0; j-- {
		for i := n; i >= 1; i-- {
			binary.BigEndian.PutUint64(b[:8], binary.BigEndian.Uint64(b[:8])^uint64(n*j+i))
			copy(b[8:], out[8*(i-1):8*i])
			c.Decrypt(b[:], b[:])
			copy(out[8*(i-1):], b[8:])
		}
	}
	var iv [8]byte
	binary.BigEndian.PutUint64(iv[:], keyWrapIV)
	if subtle.ConstantTimeCompare(iv[:], b[:8]) != 1 {
		return nil, errKeyWrap
	}
	return out, nil
}
