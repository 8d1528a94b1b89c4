import java.util.ArrayList;

public class Main {
    public static void main(String[] args) {
        var blocks = new ArrayList<byte[]>();
        while (true) {
            blocks.add(new byte[16 << 20]);
        }
    }
}
