package headspring.flink;

import java.io.Serializable;

/** Lengths of the windows. `paneNs` divides `windowNs`; `slideMs` divides the pane, so that each pane's end is looked at. */
public record Shape(long windowNs, long paneNs, long slideMs, long latenessNs) implements Serializable {
    int panes() {
        return Math.toIntExact(windowNs / paneNs);
    }

    /** The first moment of looking, in ms, that is later than `timeMs`. */
    long boundaryAfter(long timeMs) {
        return (Math.floorDiv(timeMs, slideMs) + 1) * slideMs;
    }
}
