package stream

// EncodeHeader is Header.encode for tests.
func EncodeHeader(h Header) ([]byte, error) { return h.encode() }

// SetRoom makes e take n more bytes, as if all others had been written.
func SetRoom(e *Encryptor, n int64) { e.room = n }

// Kept returns the plaintext that r keeps, itself.
func Kept(r *ReaderAt) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.kept == nil {
		return nil
	}
	return r.kept.plain
}

// AAD is Header.aad for tests.
func AAD(h Header, context map[string]string, added []byte) []byte { return h.aad(context, added) }
