package stream

// EncodeHeader is Header.encode for tests.
func EncodeHeader(h Header) ([]byte, error) { return h.encode() }
