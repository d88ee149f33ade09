package headspring.flink;

/** What an evaluation of one series says; used again for the next one. */
final class Features {
    long count;
    double mean;
    double std;
    double minimum;
    double maximum;
    double first;
    double last;
    long lastTime;
    double recentMean;
    long recentCount;

    /** Samples left out so far because another had their time, and because they came after a later one had settled. */
    long repeated;

    long late;

    /** Cells as they were before samples that go on waiting were applied to them: how many, where, and their numbers. */
    int saved;

    private final int[] places;
    private final double[] numbers;

    Features(Shape shape) {
        places = new int[shape.panes()];
        numbers = new double[shape.panes() * Series.CELL];
    }

    /** Remembers the cell at this place, once. */
    void save(double[] cells, int place) {
        for (int i = 0; i < saved; i++) {
            if (places[i] == place) {
                return;
            }
        }
        places[saved] = place;
        System.arraycopy(cells, place, numbers, saved * Series.CELL, Series.CELL);
        saved++;
    }

    /** Puts back what was remembered. */
    void restore(double[] cells) {
        for (int i = 0; i < saved; i++) {
            System.arraycopy(numbers, i * Series.CELL, cells, places[i], Series.CELL);
        }
    }
}
