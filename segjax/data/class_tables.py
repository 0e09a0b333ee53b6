"""Tables of classes: a line for each class with its id, its colour (r, g, b) and its name."""

from collections.abc import Iterator


def rows(table: str) -> Iterator[tuple[str, int, tuple[int, int, int]]]:
    """Yields (name, id, colour) for each line of a table."""
    for line in table.strip().splitlines():
        number, red, green, blue, name = line.split(maxsplit=4)
        yield name, int(number), (int(red), int(green), int(blue))


ADE20K = """
   1 120 120 120 wall
   2 180 120 120 building
   3   6 230 230 sky
   4  80  50  50 floor
   5   4 200   3 tree
   6 120 120  80 ceiling
   7 140 140 140 road
   8 204   5 255 bed
   9 230 230 230 windowpane
  10   4 250   7 grass
  11 224   5 255 cabinet
  12 235 255   7 sidewalk
  13 150   5  61 person
  14 120 120  70 earth
  15   8 255  51 door
  16 255   6  82 table
  17 143 255 140 mountain
  18 204 255   4 plant
  19 255  51   7 curtain
  20 204  70   3 chair
  21   0 102 200 car
  22  61 230 250 water
  23 255   6  51 painting
  24  11 102 255 sofa
  25 255   7  71 shelf
  26 255   9 224 house
  27   9   7 230 sea
  28 220 220 220 mirror
  29 255   9  92 rug
  30 112   9 255 field
  31   8 255 214 armchair
  32   7 255 224 seat
  33 255 184   6 fence
  34  10 255  71 desk
  35 255  41  10 rock
  36   7 255 255 wardrobe
  37 224 255   8 lamp
  38 102   8 255 bathtub
  39 255  61   6 railing
  40 255 194   7 cushion
  41 255 122   8 base
  42   0 255  20 box
  43 255   8  41 column
  44 255   5 153 signboard
  45   6  51 255 chest of drawers
  46 235  12 255 counter
  47 160 150  20 sand
  48   0 163 255 sink
  49 140 140 140 skyscraper
  50 250  10  15 fireplace
  51  20 255   0 refrigerator
  52  31 255   0 grandstand
  53 255  31   0 path
  54 255 224   0 stairs
  55 153 255   0 runway
  56   0   0 255 case
  57 255  71   0 pool table
  58   0 235 255 pillow
  59   0 173 255 screen door
  60  31   0 255 stairway
  61  11 200 200 river
  62 255  82   0 bridge
  63   0 255 245 bookcase
  64   0  61 255 blind
  65   0 255 112 coffee table
  66   0 255 133 toilet
  67 255   0   0 flower
  68 255 163   0 book
  69 255 102   0 hill
  70 194 255   0 bench
  71   0 143 255 countertop
  72  51 255   0 stove
  73   0  82 255 palm
  74   0 255  41 kitchen island
  75   0 255 173 computer
  76  10   0 255 swivel chair
  77 173 255   0 boat
  78   0 255 153 bar
  79 255  92   0 arcade machine
  80 255   0 255 hovel
  81 255   0 245 bus
  82 255   0 102 towel
  83 255 173   0 light
  84 255   0  20 truck
  85 255 184 184 tower
  86   0  31 255 chandelier
  87   0 255  61 awning
  88   0  71 255 streetlight
  89 255   0 204 booth
  90   0 255 194 television receiver
  91   0 255  82 airplane
  92   0  10 255 dirt track
  93   0 112 255 apparel
  94  51   0 255 pole
  95   0 194 255 land
  96   0 122 255 bannister
  97   0 255 163 escalator
  98 255 153   0 ottoman
  99   0 255  10 bottle
 100 255 112   0 buffet
 101 143 255   0 poster
 102  82   0 255 stage
 103 163 255   0 van
 104 255 235   0 ship
 105   8 184 170 fountain
 106 133   0 255 conveyer belt
 107   0 255  92 canopy
 108 184   0 255 washer
 109 255   0  31 plaything
 110   0 184 255 swimming pool
 111   0 214 255 stool
 112 255   0 112 barrel
 113  92 255   0 basket
 114   0 224 255 waterfall
 115 112 224 255 tent
 116  70 184 160 bag
 117 163   0 255 minibike
 118 153   0 255 cradle
 119  71 255   0 oven
 120 255   0 163 ball
 121 255 204   0 food
 122 255   0 143 step
 123   0 255 235 tank
 124 133 255   0 trade name
 125 255   0 235 microwave
 126 245   0 255 pot
 127 255   0 122 animal
 128 255 245   0 bicycle
 129  10 190 212 lake
 130 214 255   0 dishwasher
 131   0 204 255 screen
 132  20   0 255 blanket
 133 255 255   0 sculpture
 134   0 153 255 hood
 135   0  41 255 sconce
 136   0 255 204 vase
 137  41   0 255 traffic light
 138  41 255   0 tray
 139 173   0 255 ashcan
 140   0 245 255 fan
 141  71   0 255 pier
 142 122   0 255 crt screen
 143   0 255 184 plate
 144   0  92 255 monitor
 145 184 255   0 bulletin board
 146   0 133 255 shower
 147 255 214   0 radiator
 148  25 194 194 glass
 149 102 255   0 clock
 150  92   0 255 flag
"""
"""The 150 classes of SceneParse150, with the first of their names and the usual colours.

Sources: sceneparsing, objectInfo150.csv and color150.mat (CSAIL Vision).
"""

ADE20K_BEDROOM = """
2978 144 160 112 wall
 165   0 160 192 bed
 976 176  96  32 floor
2684 240  64 208 table
1395  32  80 224 lamp
 447  32  32  32 ceiling
1735 112  48   0 painting
3055  48  96 112 windowpane
1869 112 144 160 pillow
 687  16  96  64 curtain
 689  16 224  64 cushion
 774 144 128 160 door
 471  96  96  32 chair
 350 224 192 160 cabinet
 491  96  32 224 chest of drawers
1564 208  80 128 mirror
2178 128 160  16 rug
 236 224  32 192 book
2932 176  64 240 vase
 530 144 192   0 clock
  57  64 192  64 armchair
2985  80 160 112 wardrobe
1910 176 208 224 plant
 978 176 224  32 flower
2243  32  32 144 sconce
1451  64  48 224 light
2982 144 160 240 wall socket
 266 192 128  32 box
 894 240 192 224 fan
2730 208 160  80 telephone
2329  64 192  48 shelf
2733  80 160 208 television
1981  80 240 224 pot
2676 176  64 208 switch
 212 160  96 128 blind
1702 144 176 192 ottoman
 724 176  96 128 desk
2473  64 160 112 sofa
 146 128 224   0 basket
 571  80  64 192 coffee table
1930 208 176  32 plaything
 206 224 160 128 blanket
2046 240 240 224 radiator
2850 144 128 112 tray
 249  96 224  64 bottle
2586 208 192  16 stool
 943  16  96  96 fireplace
 480 160  32  96 chandelier
"""
"""The 48 classes of bedrooms, with their ids in the index file of the full ADE20K release.

The order and the ids are those of Hong et al., Learning Hierarchical Semantic Image Manipulation
through Structured Representations, NeurIPS 2018 (arXiv:1808.07535), preprocess_ade.py. Colours are
colours of PASCAL VOC's palette.
"""

COCO_THINGS = """
   1 220  20  60 person
   2 119  11  32 bicycle
   3   0   0 142 car
   4   0   0 230 motorcycle
   5 106   0 228 airplane
   6   0  60 100 bus
   7   0  80 100 train
   8   0   0  70 truck
   9   0   0 192 boat
  10 250 170  30 traffic light
  11 100 170  30 fire hydrant
  13 220 220   0 stop sign
  14 175 116 175 parking meter
  15 250   0  30 bench
  16 165  42  42 bird
  17 255  77 255 cat
  18   0 226 252 dog
  19 182 182 255 horse
  20   0  82   0 sheep
  21 120 166 157 cow
  22 110  76   0 elephant
  23 174  57 255 bear
  24 199 100   0 zebra
  25  72   0 118 giraffe
  27 255 179 240 backpack
  28   0 125  92 umbrella
  31 209   0 151 handbag
  32 188 208 182 tie
  33   0 220 176 suitcase
  34 255  99 164 frisbee
  35  92   0  73 skis
  36 133 129 255 snowboard
  37  78 180 255 sports ball
  38   0 228   0 kite
  39 174 255 243 baseball bat
  40  45  89 255 baseball glove
  41 134 134 103 skateboard
  42 145 148 174 surfboard
  43 255 208 186 tennis racket
  44 197 226 255 bottle
  46 171 134   1 wine glass
  47 109  63  54 cup
  48 207 138 255 fork
  49 151   0  95 knife
  50   9  80  61 spoon
  51  84 105  51 bowl
  52  74  65 105 banana
  53 166 196 102 apple
  54 208 195 210 sandwich
  55 255 109  65 orange
  56   0 143 149 broccoli
  57 179   0 194 carrot
  58 209  99 106 hot dog
  59   5 121   0 pizza
  60 227 255 205 donut
  61 147 186 208 cake
  62 153  69   1 chair
  63   3  95 161 couch
  64 163 255   0 potted plant
  65 119   0 170 bed
  67   0 182 199 dining table
  70   0 165 120 toilet
  72 183 130  88 tv
  73  95  32   0 laptop
  74 130 114 135 mouse
  75 110 129 133 remote
  76 166  74 118 keyboard
  77 219 142 185 cell phone
  78  79 210 114 microwave
  79 178  90  62 oven
  80  65  70  15 toaster
  81 127 167 115 sink
  82  59 105 106 refrigerator
  84 142 108  45 book
  85 196 172   0 clock
  86  95  54  80 vase
  87 128  76 255 scissors
  88 201  57   1 teddy bear
  89 246   0 122 hair drier
  90 191 162 208 toothbrush
"""
"""The 80 thing categories of COCO (panopticapi, panoptic_coco_categories.json)."""

COCO_STUFF = """
  92 255 255 128 banner
  93 147 211 203 blanket
  95 150 100 100 bridge
 100 168 171 172 cardboard
 107 146 112 198 counter
 109 210 170 100 curtain
 112  92 136  89 door-stuff
 118 218  88 184 floor-wood
 119 241 129   0 flower
 122 217  17 255 fruit
 125 124  74 181 gravel
 128  70  70  70 house
 130 255 228 255 light
 133 154 208   0 mirror-stuff
 138 193   0  92 net
 141  76  91 113 pillow
 144 255 180 195 platform
 145 106 154 176 playingfield
 147 230 150 140 railroad
 148  60 143 255 river
 149 128  64 128 road
 151  92  82  55 roof
 154 254 212 124 sand
 155  73  77 174 sea
 156 255 160  98 shelf
 159 255 255 255 snow
 161 104  84 109 stairs
 166 169 164 131 tent
 168 225 199 255 towel
 171 137  54  74 wall-brick
 175 135 158 223 wall-stone
 176   7 246 231 wall-tile
 177 107 255 200 wall-wood
 178  58  41 149 water-other
 180 183 121 142 window-blind
 181 255  73  97 window-other
 184 107 142  35 tree-merged
 185 190 153 153 fence-merged
 186 146 139 141 ceiling-merged
 187  70 130 180 sky-other-merged
 188 134 199 156 cabinet-merged
 189 209 226 140 table-merged
 190  96  36 108 floor-other-merged
 191  96  96  96 pavement-merged
 192  64 170  64 mountain-merged
 193 152 251 152 grass-merged
 194 208 229 228 dirt-merged
 195 206 186 171 paper-merged
 196 152 161  64 food-other-merged
 197 116 112   0 building-other-merged
 198   0 114 143 rock-merged
 199 102 102 156 wall-other-merged
 200 250 141 255 rug-merged
"""
"""The 53 stuff categories of COCO's panoptic segmentations (panoptic_coco_categories.json)."""

NYU40 = """
   1 174 199 232 wall
   2 152 223 138 floor
   3  31 119 180 cabinet
   4 255 187 120 bed
   5 188 189  34 chair
   6 140  86  75 sofa
   7 255 152 150 table
   8 214  39  40 door
   9 197 176 213 window
  10 148 103 189 bookshelf
  11 196 156 148 picture
  12  23 190 207 counter
  13 178  76  76 blinds
  14 247 182 210 desk
  15  66 188 102 shelves
  16 219 219 141 curtain
  17 140  57 197 dresser
  18 202 185  52 pillow
  19  51 176 203 mirror
  20 200  54 131 floor mat
  21  92 193  61 clothes
  22  78  71 183 ceiling
  23 172 114  82 books
  24 255 127  14 refridgerator
  25  91 163 138 television
  26 153  98 156 paper
  27 140 153 101 towel
  28 158 218 229 shower curtain
  29 100 125 154 box
  30 178 127 135 whiteboard
  31 120 185 128 person
  32 146 111 194 night stand
  33  44 160  44 toilet
  34 112 128 144 sink
  35  96 207 209 lamp
  36 227 119 194 bathtub
  37 213  92 176 bag
  38  94 106 211 otherstructure
  39  82  84 163 otherfurniture
  40 100  85 144 otherprop
"""
"""The 40 classes of NYUDv2, with the spelling of their authors (classMapping40.mat).

The colours are the colours of ScanNet's benchmark (ScanNet, BenchmarkScripts/util.py).
"""

NYU_FINE = """
 21 11 3 157 5 83 19 28 59 88 64 7 80 36 42 89 169 119 122 143 141 4 85 17 172 15 135 123
 26 45 331 158 124 24 144 136 55
"""
"""For the classes 1 to 37 of NYUDv2: the class of the 894 with this name (classMapping40.mat)."""

NYU_FINE_STRUCTURE = """
 8 25 33 38 51 53 57 58 62 65 79 94 104 112 134 153 215 216 223 225 238 241 242 256 295
 301 339 342 354 363 372 380 392 408 412 453 456 463 477 497 541 550 553 567 573 582 591
 609 612 615 642 645 657 658 659 663 667 668 686 700 702 777 778 782 850 861 868 874
"""
"""Classes of the 894 of NYUDv2 that are otherstructure (classMapping40.mat)."""

NYU_FINE_FURNITURE = """
 12 43 48 50 87 106 111 161 163 174 183 204 214 219 221 224 236 262 278 291 298 313 343
 344 356 359 373 393 401 414 418 419 430 443 444 447 448 457 458 460 462 475 479 485 486
 493 494 498 499 509 510 515 521 524 540 549 551 554 556 558 576 580 608 625 703 734 770
 772 797 800 803 804 813 814 815 820 829 835 858 863 882 892
"""
"""Classes of the 894 of NYUDv2 that are otherfurniture (classMapping40.mat)."""

VISTAS = """
   0 165  42  42 Bird
   1   0 192   0 Ground Animal
   2 196 196 196 Curb
   3 190 153 153 Fence
   4 180 165 180 Guard Rail
   5  90 120 150 Barrier
   6 102 102 156 Wall
   7 128  64 255 Bike Lane
   8 140 140 200 Crosswalk - Plain
   9 170 170 170 Curb Cut
  10 250 170 160 Parking
  11  96  96  96 Pedestrian Area
  12 230 150 140 Rail Track
  13 128  64 128 Road
  14 110 110 110 Service Lane
  15 244  35 232 Sidewalk
  16 150 100 100 Bridge
  17  70  70  70 Building
  18 150 120  90 Tunnel
  19 220  20  60 Person
  20 255   0   0 Bicyclist
  21 255   0 100 Motorcyclist
  22 255   0 200 Other Rider
  23 200 128 128 Lane Marking - Crosswalk
  24 255 255 255 Lane Marking - General
  25  64 170  64 Mountain
  26 230 160  50 Sand
  27  70 130 180 Sky
  28 190 255 255 Snow
  29 152 251 152 Terrain
  30 107 142  35 Vegetation
  31   0 170  30 Water
  32 255 255 128 Banner
  33 250   0  30 Bench
  34 100 140 180 Bike Rack
  35 220 220 220 Billboard
  36 220 128 128 Catch Basin
  37 222  40  40 CCTV Camera
  38 100 170  30 Fire Hydrant
  39  40  40  40 Junction Box
  40  33  33  33 Mailbox
  41 100 128 160 Manhole
  42 142   0   0 Phone Booth
  43  70 100 150 Pothole
  44 210 170 100 Street Light
  45 153 153 153 Pole
  46 128 128 128 Traffic Sign Frame
  47   0   0  80 Utility Pole
  48 250 170  30 Traffic Light
  49 192 192 192 Traffic Sign (Back)
  50 220 220   0 Traffic Sign (Front)
  51 140 140  20 Trash Can
  52 119  11  32 Bicycle
  53 150   0 255 Boat
  54   0  60 100 Bus
  55   0   0 142 Car
  56   0   0  90 Caravan
  57   0   0 230 Motorcycle
  58   0  80 100 On Rails
  59 128  64  64 Other Vehicle
  60   0   0 110 Trailer
  61   0   0  70 Truck
  62   0   0 192 Wheeled Slow
  63  32  32  32 Car Mount
  64 120  10  10 Ego Vehicle
  65   0   0   0 Unlabeled
"""
"""The 66 labels of Mapillary Vistas 1.0 to 1.2 (config.json of release 1.1).

The id of a label is its position in `labels` of the config file.
"""

VISTAS_V2 = """
   0 165  42  42 Bird
   1   0 192   0 Ground Animal
   2 250 170  31 Ambiguous Barrier
   3 250 170  32 Concrete Block
   4 196 196 196 Curb
   5 190 153 153 Fence
   6 180 165 180 Guard Rail
   7  90 120 150 Barrier
   8 250 170  33 Road Median
   9 250 170  34 Road Side
  10 128 128 128 Lane Separator
  11 250 170  35 Temporary Barrier
  12 102 102 156 Wall
  13 128  64 255 Bike Lane
  14 140 140 200 Crosswalk - Plain
  15 170 170 170 Curb Cut
  16 250 170  36 Driveway
  17 250 170 160 Parking
  18 250 170  37 Parking Aisle
  19  96  96  96 Pedestrian Area
  20 230 150 140 Rail Track
  21 128  64 128 Road
  22 110 110 110 Road Shoulder
  23 110 110 110 Service Lane
  24 244  35 232 Sidewalk
  25 128 196 128 Traffic Island
  26 150 100 100 Bridge
  27  70  70  70 Building
  28 150 150 150 Garage
  29 150 120  90 Tunnel
  30 220  20  60 Person
  31 220  20  60 Person Group
  32 255   0   0 Bicyclist
  33 255   0 100 Motorcyclist
  34 255   0 200 Other Rider
  35 255 255 255 Lane Marking - Dashed Line
  36 255 255 255 Lane Marking - Straight Line
  37 250 170  29 Lane Marking - Zigzag Line
  38 250 170  28 Lane Marking - Ambiguous
  39 250 170  26 Lane Marking - Arrow (Left)
  40 250 170  25 Lane Marking - Arrow (Other)
  41 250 170  24 Lane Marking - Arrow (Right)
  42 250 170  22 Lane Marking - Arrow (Split Left or Straight)
  43 250 170  21 Lane Marking - Arrow (Split Right or Straight)
  44 250 170  20 Lane Marking - Arrow (Straight)
  45 255 255 255 Lane Marking - Crosswalk
  46 250 170  19 Lane Marking - Give Way (Row)
  47 250 170  18 Lane Marking - Give Way (Single)
  48 250 170  12 Lane Marking - Hatched (Chevron)
  49 250 170  11 Lane Marking - Hatched (Diagonal)
  50 255 255 255 Lane Marking - Other
  51 255 255 255 Lane Marking - Stop Line
  52 250 170  16 Lane Marking - Symbol (Bicycle)
  53 250 170  15 Lane Marking - Symbol (Other)
  54 250 170  15 Lane Marking - Text
  55 255 255 255 Lane Marking (only) - Dashed Line
  56 255 255 255 Lane Marking (only) - Crosswalk
  57 255 255 255 Lane Marking (only) - Other
  58 255 255 255 Lane Marking (only) - Test
  59  64 170  64 Mountain
  60 230 160  50 Sand
  61  70 130 180 Sky
  62 190 255 255 Snow
  63 152 251 152 Terrain
  64 107 142  35 Vegetation
  65   0 170  30 Water
  66 255 255 128 Banner
  67 250   0  30 Bench
  68 100 140 180 Bike Rack
  69 220 128 128 Catch Basin
  70 222  40  40 CCTV Camera
  71 100 170  30 Fire Hydrant
  72  40  40  40 Junction Box
  73  33  33  33 Mailbox
  74 100 128 160 Manhole
  75  20  20 255 Parking Meter
  76 142   0   0 Phone Booth
  77  70 100 150 Pothole
  78 250 171  30 Signage - Advertisement
  79 250 172  30 Signage - Ambiguous
  80 250 173  30 Signage - Back
  81 250 174  30 Signage - Information
  82 250 175  30 Signage - Other
  83 250 176  30 Signage - Store
  84 210 170 100 Street Light
  85 153 153 153 Pole
  86 153 153 153 Pole Group
  87 128 128 128 Traffic Sign Frame
  88   0   0  80 Utility Pole
  89 210  60  60 Traffic Cone
  90 250 170  30 Traffic Light - General (Single)
  91 250 170  30 Traffic Light - Pedestrians
  92 250 170  30 Traffic Light - General (Upright)
  93 250 170  30 Traffic Light - General (Horizontal)
  94 250 170  30 Traffic Light - Cyclists
  95 250 170  30 Traffic Light - Other
  96 192 192 192 Traffic Sign - Ambiguous
  97 192 192 192 Traffic Sign (Back)
  98 192 192 192 Traffic Sign - Direction (Back)
  99 220 220   0 Traffic Sign - Direction (Front)
 100 220 220   0 Traffic Sign (Front)
 101   0   0 196 Traffic Sign - Parking
 102 192 192 192 Traffic Sign - Temporary (Back)
 103 220 220   0 Traffic Sign - Temporary (Front)
 104 140 140  20 Trash Can
 105 119  11  32 Bicycle
 106 150   0 255 Boat
 107   0  60 100 Bus
 108   0   0 142 Car
 109   0   0  90 Caravan
 110   0   0 230 Motorcycle
 111   0  80 100 On Rails
 112 128  64  64 Other Vehicle
 113   0   0 110 Trailer
 114   0   0  70 Truck
 115   0   0 142 Vehicle Group
 116   0   0 192 Wheeled Slow
 117 170 170 170 Water Valve
 118  32  32  32 Car Mount
 119 111  74   0 Dynamic
 120 120  10  10 Ego Vehicle
 121  81   0  81 Ground
 122 111 111   0 Static
 123   0   0   0 Unlabeled
"""
"""The 124 labels of Mapillary Vistas 2.0 (config_v2.0.json).

Names, order and colours were compared in two programs that read the release: mmsegmentation
(projects/mapillary_dataset) and a converter to COCO. The file itself was not at hand. The colours
of Datumaro (mapillary_vistas/format.py) agree. Datumaro lists traffic lights in another order.
"""
