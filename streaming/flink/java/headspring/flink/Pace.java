package headspring.flink;

import java.io.Serializable;

/**
 * How time goes on.
 *
 * @param delayMs how far looks stay behind the newest row where they do not follow the watermark
 * @param patienceMs how long, by the machine's clock, a watermark may stand still until they do not; 0 for ever
 * @param forgetMs a series without a sample for this long is forgotten
 */
public record Pace(long delayMs, long patienceMs, long forgetMs) implements Serializable {}
