package byok

// AppendKWP is appendKWP for published vectors.
var AppendKWP = appendKWP
