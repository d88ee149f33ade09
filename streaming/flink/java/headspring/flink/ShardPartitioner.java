package headspring.flink;

import java.nio.charset.StandardCharsets;
import java.util.zip.CRC32;
import org.apache.flink.connector.kafka.sink.KafkaPartitioner;
import org.apache.flink.table.data.RowData;

/** Where every other producer of ours puts a record of this key: see `partition_of` in `headspring/proto/topics.py`. */
public final class ShardPartitioner implements KafkaPartitioner<RowData> {
    private static final long serialVersionUID = 1;

    @Override
    public int partition(RowData record, byte[] key, byte[] value, String topic, int[] partitions) {
        String[] parts = new String(key, StandardCharsets.UTF_8).split("\u001f", -1);
        CRC32 hash = new CRC32();
        hash.update(parts[0].getBytes(StandardCharsets.UTF_8));
        return (int) ((hash.getValue() + Long.parseLong(parts[1])) % partitions.length);
    }
}
