"""`endcap outcomes`: what came of the pages that were shown, joined from exposures and events."""
