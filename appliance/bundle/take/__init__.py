"""Taking bundles in: judged, received, admitted, with a receipt. On nodes."""
